"""The compression steps, one a file: each a pure async function over a typed context."""

from .calibrate import calibrate
from .load import load
from .profile import profile
from .prune import prune
from .quantize import quantize
from .score import score
from .validate import validate

__all__ = [
    "calibrate",
    "load",
    "profile",
    "prune",
    "quantize",
    "score",
    "validate",
]
