"""The compression steps, one a file: each a pure async function over a typed context."""

from . import ordering as ordering  # registers its checks
from .allocate import allocate
from .calibrate import calibrate
from .heal import heal
from .load import load
from .profile import profile
from .prune import prune
from .quantize import quantize
from .save import save
from .score import score
from .select import select
from .sensitivity import sensitivity
from .validate import validate
from .waves import waves

__all__ = [
    "allocate",
    "calibrate",
    "heal",
    "load",
    "profile",
    "prune",
    "quantize",
    "save",
    "score",
    "select",
    "sensitivity",
    "validate",
    "waves",
]
