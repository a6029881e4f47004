"""Codes packed into ggml's blocks are what a reader decodes; the judge is gguf's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from birdbone.checkpoints import GgmlBlocks, InMemory, Quantized
from birdbone.errors import SettingError
from birdbone.formats.ggml_blocks import exact_blocks, exact_kind, kind_of_grid, pack
from birdbone.solvers.grid import NAMED_GRIDS, Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest


def weight(width: int = 256) -> torch.Tensor:
    return torch.randn(3, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMED_GRIDS)
def test_a_reader_decodes_what_was_packed(name: str) -> None:
    quantized = quantize_round_to_nearest(weight(), grid=Grid.named(name))
    read = dequantize(pack(quantized).numpy(), GGMLQuantizationType[name.upper()])
    assert np.array_equal(read, quantized.dequantize().numpy())
    assert kind_of_grid(quantized.grid) == name


def test_codes_on_another_grid_are_not_packed() -> None:
    quantized = quantize_round_to_nearest(weight(64), grid=Grid(4, 32))
    with pytest.raises(SettingError, match=r"do not fit any ggml type; quantise to one of q4_0"):
        pack(quantized)


@pytest.mark.parametrize(
    ("bits", "kind"),
    [(2, "q4_0"), (3, "q4_0"), (4, "q4_0"), (5, "q5_0"), (6, "q8_0"), (7, "q8_0"), (8, "q8_0")],
)
def test_groups_of_several_blocks_are_stored_exactly(bits: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    most = 2 ** (bits - 1)
    codes = torch.randint(-most, most, (3, 128), generator=generator, dtype=torch.int8)
    ref = Quantized(codes, torch.rand(3, 2, generator=generator).half(), bits=bits)
    assert exact_kind(ref) == kind
    read = dequantize(exact_blocks(ref).numpy(), GGMLQuantizationType[kind.upper()])
    assert np.array_equal(read, ref.values(torch.float32).numpy())


def test_blocks_stay_as_they_are() -> None:
    blocks = torch.arange(36, dtype=torch.uint8).view(2, 18)
    ref = GgmlBlocks(blocks, kind="q4_0")
    assert exact_kind(ref) == "q4_0"
    assert torch.equal(exact_blocks(ref), blocks)


def test_values_have_no_exact_type() -> None:
    assert exact_kind(InMemory(weight())) is None


@pytest.mark.parametrize(
    "codes",
    [
        Quantized(torch.ones(2, 64, dtype=torch.int8), torch.ones(2, 4), bits=4),
        Quantized(torch.ones(2, 64, dtype=torch.int8), torch.full((2, 1), 0.1), bits=4),
        Quantized(torch.ones(2, 64, dtype=torch.int8), torch.full((2, 1), 1e6), bits=8),
        Quantized(
            torch.ones(2, 64, dtype=torch.int8),
            torch.ones(2, 1),
            bits=4,
            zero_points=torch.ones(2, 1, dtype=torch.int8),
        ),
    ],
    ids=["groups of 16", "a scale of 0.1", "a scale too large", "zero points"],
)
def test_codes_no_block_holds_exactly_are_on_no_type(codes: Quantized) -> None:
    assert exact_kind(codes) is None
