"""A meter charges a piece of work for what that work holds."""

import sys

import pytest
import torch

from birdbone.checkpoints.allocator import release_unused_memory
from birdbone.contexts.cost import Meter

_PIECE = 8 << 10  # values: small enough that the allocator takes them from its heap


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is resident now")
def test_what_earlier_work_let_go_of_is_not_charged() -> None:
    release_unused_memory()
    before = Meter().stop().peak_bytes
    pieces = [torch.ones(_PIECE) for _ in range(8000)]
    kept = pieces[7::8]
    held = Meter().stop().peak_bytes
    del pieces
    after = Meter().stop().peak_bytes
    assert held - before > 200 << 20
    assert after - before < (held - before) / 2
    assert len(kept) == 1000
