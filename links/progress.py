"""Where links that rewrite a model block by block put what they have finished."""

from __future__ import annotations

from ..engine import Nowhere, Unfinished, unfinished
from ..models.passes.temporary_place import TemporaryPlace


def progress_place() -> Unfinished:
    """The running link's place for work in progress; a temporary one in a run without a store."""
    place = unfinished()
    return TemporaryPlace() if isinstance(place, Nowhere) else place
