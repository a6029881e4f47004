"""NF4 and LLM.int8 against their definitions, value by value."""

from __future__ import annotations

import pytest
import torch

from birdbone.checkpoints import InMemory
from birdbone.errors import SettingError
from birdbone.models.codecs.bitsandbytes import (
    check_nf4_shape,
    fits_nf4,
    handed_over,
    int8_values,
    nf4_values,
)

pytest.importorskip("bitsandbytes")

# QLoRA (2305.14314), appendix E.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def weight(rows: int = 32, width: int = 128) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_nf4_takes_the_nearest_of_sixteen_values_times_the_largest_of_a_block() -> None:
    blocks = weight().reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4)
    nearest = ((blocks / scale).unsqueeze(2) - levels).abs().argmin(2)
    wanted = (levels[nearest] * scale).reshape(32, 128)
    torch.testing.assert_close(nf4_values(weight(), double=False), wanted, rtol=1e-5, atol=1e-6)


def test_scales_in_8_bits_are_close_to_whole_ones() -> None:
    apart = (nf4_values(weight()) - nf4_values(weight(), double=False)).norm() / weight().norm()
    assert 0 < apart < 0.02


def test_int8_rounds_each_row_to_127_steps() -> None:
    half = weight().half().float()
    steps = half.abs().amax(1, keepdim=True) / 127
    found = int8_values(weight())
    assert torch.all((found - half).abs() <= steps * 0.502)  # rounded in float16 at the edges
    whole = found / steps
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "nf4.single", "llm.int8"])
def test_a_weight_shows_what_it_will_be(kind: str) -> None:
    found = handed_over(InMemory(weight()), kind)  # type: ignore[arg-type]
    wanted = {
        "nf4": nf4_values(weight()),
        "nf4.single": nf4_values(weight(), double=False),
        "llm.int8": int8_values(weight()),
    }[kind]
    assert torch.equal(found.load(), wanted)
    assert torch.equal(found.source.load(), weight())


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((32, 64), True), ((64, 192), True), ((31, 64), False), ((32, 32), False), ((32, 96), False)],
)
def test_nf4_holds_whole_blocks_of_rows(shape: tuple[int, int], fits: bool) -> None:
    assert fits_nf4(shape) is fits
    if fits:
        check_nf4_shape(shape)
    else:
        with pytest.raises(SettingError, match=rf"nf4 cannot hold shape \[{shape[0]}, {shape[1]}"):
            check_nf4_shape(shape)
