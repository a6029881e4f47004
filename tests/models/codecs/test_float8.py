"""Float8 weights value by value: blocks that reach over an edge, rows, whole tensors, experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from birdbone.checkpoints import InMemory
from birdbone.errors import CheckpointError
from birdbone.models.codecs.float4 import unpack_e2m1
from birdbone.models.codecs.float8 import Float8, is_float8, read_float8


def codes(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)


def scales(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(shape, generator=generator) + 0.5


def loaded(stored: Tensor, scale: Tensor, block: tuple[int, int] | None) -> Tensor:
    return Float8("w", InMemory(stored), InMemory(scale), block).load()


def brute(stored: Tensor, scale: Tensor, height: int, width: int) -> Tensor:
    found = stored.float()
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            found[row, column] *= scale[row // height, column // width]
    return found


@pytest.mark.parametrize(
    ("size", "block"), [((4, 6), (2, 3)), ((5, 7), (2, 3)), ((3, 2), (4, 4)), ((1, 9), (1, 4))]
)
def test_each_value_has_the_scale_of_its_block(size: Any, block: tuple[int, int]) -> None:
    """The last block of a row or column may be smaller."""
    stored = codes(*size)
    scale = scales(-(-size[0] // block[0]), -(-size[1] // block[1]))
    assert torch.equal(loaded(stored, scale, block), brute(stored, scale, *block))


def test_without_a_block_the_number_of_scales_decides() -> None:
    stored, scale = codes(4, 6), scales(2, 3)
    assert torch.equal(loaded(stored, scale, None), brute(stored, scale, 2, 2))
    per_row = scales(4)
    assert torch.equal(loaded(stored, per_row, (128, 128)), stored.float() * per_row[:, None])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_is_of_the_whole_tensor(shape: tuple[int, ...]) -> None:
    stored, scale = codes(3, 5), torch.full(shape, 0.25)
    assert torch.equal(loaded(stored, scale, (2, 2)), stored.float() * 0.25)


def test_experts_and_rows_of_one_dimension_too() -> None:
    stored, scale = codes(2, 3, 4), scales(2, 2, 2)
    found = loaded(stored, scale, (2, 2))
    for expert in range(2):
        assert torch.equal(found[expert], brute(stored[expert], scale[expert], 2, 2))
    assert torch.equal(loaded(codes(6), torch.tensor([2.0]), None), codes(6).float() * 2)


def test_int8_holds_two_fp4_numbers_with_exponents_for_scales() -> None:
    generator = torch.Generator().manual_seed(2)
    stored = torch.randint(-128, 128, (2, 4), generator=generator).to(torch.int8)
    scale = torch.tensor([[126, 129], [127, 127]], dtype=torch.uint8)
    wanted = unpack_e2m1(stored) * torch.tensor([[0.5, 4.0], [1.0, 1.0]]).repeat_interleave(4, 1)
    assert torch.equal(loaded(stored, scale, (1, 4)), wanted)


@pytest.mark.parametrize("shape", [(3, 3), (0, 2), (2, 2, 2), (5,)])
def test_scales_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"scales .* which they do not fit with blocks of"):
        Float8("w", InMemory(codes(4, 4)), InMemory(torch.ones(shape)), (2, 2))


def refs(**named: Tensor) -> dict[str, InMemory]:
    return {name.replace("__", "."): InMemory(value) for name, value in named.items()}


@pytest.mark.parametrize("scale", ["weight_scale_inv", "weight_scale", "scale", "qscale_weight"])
def test_scales_of_a_weight_are_found_by_each_of_their_names(scale: str) -> None:
    stored, of_inputs = codes(2, 2), torch.ones(1)
    found = read_float8(
        refs(
            **{"a__weight": stored, f"a__{scale}": torch.tensor([2.0])},
            a__input_scale=of_inputs,
            b__weight=of_inputs,
        ),
        {"weight_block_size": None},
    )
    assert found.keys() == {"a.weight", "b.weight"}
    assert torch.equal(found["a.weight"].load(), stored.float() * 2)


def test_a_float8_weight_without_scales_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'a\.weight' is stored in .* but has no scale"):
        read_float8(refs(a__weight=codes(2, 2)), {})


@pytest.mark.parametrize("size", [128, [128], [0, 128], [128, "x"], "ab"])
def test_a_block_that_is_no_pair_of_sizes_is_refused(size: Any) -> None:
    with pytest.raises(CheckpointError, match=r"weight_block_size=.* must be two positive"):
        read_float8({}, {"weight_block_size": size})


def test_exponents_are_not_weights() -> None:
    assert is_float8(InMemory(codes(1)))
    assert not is_float8(InMemory(torch.ones(1).to(torch.float8_e8m0fnu)))
