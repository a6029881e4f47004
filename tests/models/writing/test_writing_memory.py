"""Writing a folder takes the memory of one tensor, whatever the depth of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from deep_llama import layer_weights, needs_proc, printed, save_deep_llama

WRITE = """
import sys
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.writing.folder import write_model

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
checkpoint = open_checkpoint(find_model(str(source)))
folder.mkdir()
before, after = held_bytes(), []
write_model(
    checkpoint, folder, max_shard_bytes=1 << 40, announce=lambda *_: after.append(held_bytes())
)
print(max(after) - before)
"""
SIZES = {"width": 512, "inner": 1408, "heads": 8}
LAYER_BYTES = 2 * layer_weights(**SIZES)


@pytest.mark.slow
@needs_proc
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layers", [24, 48])
def test_a_deep_model_takes_no_more_than_a_few_layers(layers: int, tmp_path: Path) -> None:
    """From disk to disk."""
    save_deep_llama(tmp_path / "from", layers, **SIZES)
    assert printed(WRITE, tmp_path / "from", tmp_path / "to") < 6 * LAYER_BYTES
