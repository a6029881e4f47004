"""The compression steps, one a file: each a pure async function over a typed context."""

from . import order as order  # its checks of heal, prune and quantize
from .calibrate import calibrate
from .heal import heal
from .load import load
from .profile import profile
from .prune import prune
from .quantize import quantize
from .save import save
from .score import score
from .validate import validate

__all__ = [
    "calibrate",
    "heal",
    "load",
    "profile",
    "prune",
    "quantize",
    "save",
    "score",
    "validate",
]
