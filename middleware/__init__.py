"""Middleware: objects that watch a run and leave its results as they are.

Every object here works on a bird-bone chain and on a plain ``modulink.Chain``, keeps what it knows
of a run in that run's notes, and may watch several runs at once.
"""

from .gpu_memory import GpuMemory
from .logging import Logging
from .progress import Progress
from .timing import Timing
from .wandb_logging import WandbLogging

__all__ = ["GpuMemory", "Logging", "Progress", "Timing", "WandbLogging"]
