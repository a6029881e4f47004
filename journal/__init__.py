"""The run folder: outcomes of finished links, so that a run can be resumed, read and reverted."""

from .folder import RunFolder
from .journal import Journal, KeptOutcome
from .records import storable

__all__ = ["Journal", "KeptOutcome", "RunFolder", "storable"]
