"""W&B within a test: what it keeps in the process, and the end of its writing."""

from __future__ import annotations

import gc
import threading

from birdbone.middleware.wandb_logging import CLOSING


def close_wandb() -> None:
    """Wait until W&B has written all it has, and forget the folder it writes to.

    Its service goes on after ``finish`` returned. The folder is read from the environment once per
    process, when W&B is first used, if only to make an artifact.
    """
    import wandb

    gc.collect()  # stored exceptions hold the frames that hold a run's notes
    for thread in threading.enumerate():
        if thread.name == CLOSING:
            thread.join()
    wandb.teardown()
