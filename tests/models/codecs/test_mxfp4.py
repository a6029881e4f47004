"""MXFP4 experts value by value, and folders that lack a part."""

from __future__ import annotations

import pytest
import torch

from birdbone.checkpoints import InMemory
from birdbone.errors import CheckpointError
from birdbone.models.codecs.float4 import unpack_e2m1
from birdbone.models.codecs.mxfp4 import Mxfp4Experts, read_mxfp4

EXPERTS, ROWS, GROUPS, BYTES = 2, 3, 2, 16


def parts() -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks and exponents from -2 to 2."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (EXPERTS, ROWS, GROUPS, BYTES), generator=generator)
    scales = torch.randint(125, 130, (EXPERTS, ROWS, GROUPS), generator=generator)
    return blocks.to(torch.uint8), scales.to(torch.uint8)


def test_a_value_is_its_number_times_a_power_of_two() -> None:
    blocks, scales = parts()
    weight = Mxfp4Experts("w", InMemory(blocks), InMemory(scales))
    found = weight.load()
    assert found.shape == weight.shape == (EXPERTS, GROUPS * 2 * BYTES, ROWS)
    for expert in range(EXPERTS):
        for row in range(ROWS):
            for column in range(GROUPS * 2 * BYTES):
                group, place = divmod(column, 2 * BYTES)
                number = float(unpack_e2m1(blocks[expert, row, group])[place])
                exponent = int(scales[expert, row, group]) - 127
                assert float(found[expert, column, row]) == number * 2.0**exponent


def test_blocks_and_scales_become_one_weight() -> None:
    blocks, scales = map(InMemory, parts())
    other = InMemory(torch.ones(2))
    found = read_mxfp4({"a.w_blocks": blocks, "a.w_scales": scales, "b": other})
    assert found.keys() == {"a.w", "b"}
    assert found["b"] is other
    assert isinstance(found["a.w"], Mxfp4Experts)


def test_blocks_without_scales_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"lacks the scales of 'a\.w'"):
        read_mxfp4({"a.w_blocks": InMemory(parts()[0])})


def test_parts_of_other_shapes_or_dtypes_are_refused() -> None:
    blocks, scales = parts()
    for wrong in (scales[:, :2], scales.float()):
        with pytest.raises(CheckpointError, match="which is not as MXFP4 is stored"):
            Mxfp4Experts("w", InMemory(blocks), InMemory(wrong))
    with pytest.raises(CheckpointError, match="which is not as MXFP4 is stored"):
        Mxfp4Experts("w", InMemory(blocks[0]), InMemory(scales[0]))
