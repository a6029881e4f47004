"""The predicted size of a safetensors file is the file's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from birdbone.checkpoints.safetensors_layout import StoredTensor, safetensors_bytes
from birdbone.checkpoints.tensors import DTYPES
from birdbone.errors import CheckpointError


def _tensors() -> dict[str, torch.Tensor]:
    """Every dtype, with sizes that change the number of digits, and names that JSON escapes."""
    found = {
        f"{place:02d}.{name}": torch.zeros(3, 10**place % 997, dtype=dtype)
        for place, (name, dtype) in enumerate(DTYPES.items())
    }
    odd = {
        'q"\\é\n\x7f/': torch.zeros(2, 2),
        "scalar": torch.tensor(1.0),
        "none": torch.zeros(0, 5),
    }
    return {**found, **odd}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
@pytest.mark.parametrize("skip", range(9))
def test_every_dtype(metadata: dict[str, str] | None, skip: int, tmp_path: Path) -> None:
    tensors = dict(list(_tensors().items())[skip:])
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    outline = {name: StoredTensor(each.dtype, tuple(each.shape)) for name, each in tensors.items()}
    size = (tmp_path / "x.safetensors").stat().st_size
    assert safetensors_bytes(outline, metadata) == size


def test_dtype_that_cannot_be_saved() -> None:
    with pytest.raises(CheckpointError, match="tensor 'a' has dtype"):
        safetensors_bytes({"a": StoredTensor(torch.complex64, (1,))})
