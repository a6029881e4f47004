"""The run folder: what every finished link left, so that a run can go on, be read and be undone."""

from .folder import RunFolder
from .journal import Journal, Kept
from .records import storable

__all__ = ["Journal", "Kept", "RunFolder", "storable"]
