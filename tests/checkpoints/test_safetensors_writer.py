"""A file written tensor by tensor is the one that safetensors itself writes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from birdbone.checkpoints import safetensors_writer
from birdbone.checkpoints.safetensors_layout import StoredTensor
from birdbone.checkpoints.safetensors_writer import write_safetensors
from birdbone.checkpoints.tensors import DTYPES
from birdbone.errors import CheckpointError, ResourceError

OUTLINES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.builds(
        StoredTensor,
        st.sampled_from(sorted(DTYPES.values(), key=str)),
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
    ),
    min_size=1,  # of no tensors, safetensors 0.8 writes a header that is no JSON
    max_size=8,
)
METADATA = st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=1)
FULL = Path("/dev/full")


def _random(outline: StoredTensor, seed: int) -> Tensor:
    """Any bytes, NaN and negative zeros among them; a bool is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    top = 2 if outline.dtype is torch.bool else 256
    count = math.prod(outline.shape) * outline.dtype.itemsize
    drawn = torch.randint(top, (count,), dtype=torch.uint8, generator=generator)
    return drawn.view(outline.dtype).reshape(outline.shape)


def _write(path: Path, tensors: dict[str, Tensor], verbatim: str = "") -> bytes:
    outline = {name: StoredTensor.of(tensor) for name, tensor in tensors.items()}
    write_safetensors(path, outline, tensors.__getitem__, verbatim=verbatim)
    return path.read_bytes()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(outline=OUTLINES, metadata=METADATA, piece=st.sampled_from([8, 24, 1 << 20]))
def test_the_bytes_are_those_of_save_file(
    tmp_path: Path, outline: dict[str, StoredTensor], metadata: dict[str, str] | None, piece: int
) -> None:
    tensors = {name: _random(each, seed) for seed, (name, each) in enumerate(outline.items())}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    save_file(tensors, theirs, metadata=metadata)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors_writer, "PIECE_BYTES", piece)
        write_safetensors(ours, outline, tensors.__getitem__, metadata, verbatim=outline)
    assert ours.read_bytes() == theirs.read_bytes()


def test_shared_and_strided_tensors_are_written_whole(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    tensors = {"whole": whole, "again": whole, "turned": whole.t(), "row": whole[1]}
    save_file({name: each.contiguous().clone() for name, each in tensors.items()}, tmp_path / "b")
    assert _write(tmp_path / "a", tensors) == (tmp_path / "b").read_bytes()


def test_negative_zeros_stay_only_where_asked(tmp_path: Path) -> None:
    given_tensor = torch.tensor([-0.0, 1.0])
    found = _write(tmp_path / "a", {"x": given_tensor, "y": given_tensor}, verbatim="y")
    assert found[-16:] == torch.tensor([0.0, 1.0, -0.0, 1.0]).numpy().tobytes()
    assert torch.signbit(given_tensor).tolist() == [True, False]


@pytest.mark.parametrize("loaded", [torch.ones(3), torch.ones(2, dtype=torch.float64)])
def test_a_tensor_that_is_not_as_announced_leaves_no_file(tmp_path: Path, loaded: Tensor) -> None:
    outline = {name: StoredTensor(torch.float32, (2,)) for name in "ab"}
    tensors = {"a": torch.ones(2), "b": loaded}
    with pytest.raises(CheckpointError, match=r"'b' was announced as torch\.float32 \(2,\)"):
        write_safetensors(tmp_path / "x", outline, tensors.__getitem__)
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_could_not_be_read_back_is_refused_before_a_file_is_made(
    tmp_path: Path,
) -> None:
    with pytest.raises(CheckpointError, match=r"tensor 'a' has dtype torch\.complex64.*convert"):
        _write(tmp_path / "x", {"a": torch.ones(1, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_a_full_disk_is_named(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").symlink_to(FULL)
    with pytest.raises(ResourceError, match=r"'x' cannot be written: the disk is full.*free some"):
        _write(tmp_path / "x", {"a": torch.ones(size)})
    assert not list(tmp_path.iterdir())
