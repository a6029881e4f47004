import pytest
import torch
from safetensors.torch import save_file

from birdbone.checkpoints import Converted, InMemory, InShard
from birdbone.checkpoints.tensors import DTYPES, all_finite, digest
from birdbone.errors import CheckpointError


def test_in_memory_lets_no_gradient_out() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert not InMemory(weight).load().requires_grad


def test_in_shard_reads_on_load_only(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    ref = InShard(path, "a", torch.float32, (2,))
    assert (ref.num_values, ref.num_bytes) == (2, 8)
    with pytest.raises(CheckpointError, match=r"'a' cannot be read from weights\.safetensors"):
        ref.load()
    save_file({"a": torch.tensor([1.0, 2.0])}, path)
    assert ref.load().tolist() == [1.0, 2.0]
    with pytest.raises(CheckpointError, match="'b' cannot be read"):
        InShard(path, "b", torch.float32, (2,)).load()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_digest_sees_every_dtype_and_ignores_layout(dtype: torch.dtype) -> None:
    square = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).to(dtype)
    assert digest(square) == digest(square.t().contiguous().t())
    assert digest(square) != digest(square.flip(0))
    assert digest(square) != digest(square.reshape(2, 3))
    assert digest(square[:0]) != digest(square[:0].t())
    assert digest(square[0, 0]) != digest(square[0, :1])


def test_converted_is_its_source_in_another_dtype() -> None:
    source = InMemory(torch.tensor([1.0, 1.0 / 3.0]))
    half = Converted(source, torch.bfloat16)
    assert torch.equal(half.load(), source.load().bfloat16())
    assert (half.dtype, half.shape, half.num_bytes) == (torch.bfloat16, (2,), 4)
    assert half.digest == InMemory(half.load()).digest != source.digest
    assert source.load().dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 17, 63])
def test_one_odd_value_anywhere_is_found(dtype: torch.dtype, odd: float, place: int) -> None:
    values = torch.linspace(-2, 2, 64)
    assert all_finite(values.to(dtype))
    values[place] = odd
    assert not all_finite(values.to(dtype).view(8, 8))


def test_nothing_and_whole_numbers_are_finite() -> None:
    assert all_finite(torch.empty(0))
    assert all_finite(torch.arange(3))
