"""Middleware: objects that observe a run without changing its results.

Every middleware works on a birdbone chain and on a plain ``modulink.Chain``. It keeps the state of
a run in that run's notes, so that one object can observe several runs at once.
"""

from .gpu_memory import GpuMemory
from .logging import Logging
from .progress import Progress
from .timing import Timing
from .wandb_logging import WandbLogging

__all__ = ["GpuMemory", "Logging", "Progress", "Timing", "WandbLogging"]
