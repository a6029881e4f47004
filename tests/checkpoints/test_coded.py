"""What quantised weights stand for, and what their digests cover."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from birdbone.checkpoints import BitsAndBytes, Converted, GgmlBlocks, InMemory, Quantized
from birdbone.checkpoints.ggml_sizes import SCALE_BYTES, block_size
from birdbone.errors import CheckpointError

CODES = torch.arange(-8, 8, dtype=torch.int8).reshape(2, 8)


def _expected(codes: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
    """The definition, value by value, in float64 and rounded once to the dtype of the scales."""
    rows, columns = codes.shape
    group = columns // scales.shape[1]
    out = torch.empty(rows, columns, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            zero = 0 if zero_points is None else int(zero_points[row, column // group])
            scale = scales[row, column // group].double()
            out[row, column] = (int(codes[row, column]) - zero) * scale
    return out.to(scales.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shifted", [False, True])
@given(seed=st.integers(0, 2**31), groups=st.sampled_from([1, 2, 4, 8]))
def test_quantized_is_code_minus_zero_point_times_scale(
    dtype: torch.dtype, shifted: bool, seed: int, groups: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(-128, 128, (3, 8), dtype=torch.int8, generator=draw)
    scales = torch.rand(3, groups, generator=draw).to(dtype)
    zero_points = torch.randint(-128, 128, (3, groups), dtype=torch.int8, generator=draw)
    ref = Quantized(codes, scales, bits=8, zero_points=zero_points if shifted else None)
    expected = _expected(codes, scales, zero_points if shifted else None)
    # Exact: a difference of two codes fits 8 bits of mantissa, and the product is rounded once.
    assert torch.equal(ref.load(), expected)
    assert ref.load().dtype == ref.dtype == dtype
    assert ref.shape == (3, 8)
    assert ref.group_size == 8 // groups
    assert ref.symmetric is not shifted


def test_quantized_multiplies_in_the_dtype_asked_for() -> None:
    ref = Quantized(CODES, torch.full((2, 1), 0.3, dtype=torch.bfloat16), bits=4)
    scale = float(torch.tensor(0.3, dtype=torch.bfloat16))
    assert torch.equal(ref.values(torch.float64), CODES.double() * scale)


def test_quantized_bytes_are_codes_scales_and_zero_points() -> None:
    scales = torch.ones(2, 2, dtype=torch.bfloat16)
    assert Quantized(CODES, scales, bits=4).num_bytes == 8 + 8
    zero_points = torch.zeros(2, 2, dtype=torch.int8)
    assert Quantized(CODES, scales, bits=8, zero_points=zero_points).num_bytes == 16 + 8 + 4


@pytest.mark.parametrize("shape", [(3, 1), (2, 3), (2, 0), (2,), (2, 2, 2)])
def test_quantized_refuses_scales_that_do_not_divide(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"codes \(2, 8\) do not divide"):
        Quantized(CODES, torch.ones(shape), bits=4)


def test_quantized_refuses_zero_points_of_another_shape() -> None:
    zero_points = torch.zeros(2, 1, dtype=torch.int8)
    with pytest.raises(
        CheckpointError, match=r"zero points \(2, 1\) do not have the shape of scales"
    ):
        Quantized(CODES, torch.ones(2, 2), bits=4, zero_points=zero_points)


def test_quantized_digest_covers_every_part() -> None:
    scales, zero_points = torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.int8)
    refs = [
        Quantized(CODES, scales, bits=4),
        Quantized(CODES, scales, bits=8),
        Quantized(CODES, scales, bits=4, zero_points=zero_points),
        Quantized(CODES, scales, bits=4, zero_points=zero_points + 1),
        Quantized(CODES, scales * 2, bits=4),
        Quantized(CODES.flip(0), scales, bits=4),
    ]
    assert len({ref.digest for ref in refs}) == len(refs)
    assert Quantized(CODES.clone(), scales.clone(), bits=4).digest == refs[0].digest


def test_bitsandbytes_shows_its_values_and_counts_its_codes() -> None:
    source, values = torch.ones(4, 8), torch.full((4, 8), 0.9)
    nf4 = BitsAndBytes(InMemory(source), values, kind="nf4")
    int8 = BitsAndBytes(InMemory(source), values, kind="llm.int8")
    assert torch.equal(nf4.load(), values)
    assert (nf4.num_bytes, int8.num_bytes) == (16, 32)
    other_source = BitsAndBytes(InMemory(source * 2), values, kind="nf4")
    other_values = BitsAndBytes(InMemory(source), values * 2, kind="nf4")
    assert len({ref.digest for ref in (nf4, int8, other_source, other_values)}) == 4


def test_the_kind_names_what_is_stored() -> None:
    values = torch.ones(2, 32)
    source = InMemory(values)
    kinds = {
        "float32": source,
        "bfloat16": Converted(source, torch.bfloat16),
        "int3": Quantized(values.to(torch.int8), torch.ones(2, 1), bits=3),
        "q8_0": GgmlBlocks(torch.zeros(2, 34, dtype=torch.uint8), kind="q8_0"),
        "nf4.single": BitsAndBytes(source, values, kind="nf4.single"),
    }
    assert [ref.storage_kind for ref in kinds.values()] == list(kinds)


def test_ggml_blocks_stand_for_values() -> None:
    """Q8_0: a float16 scale, then 32 signed bytes."""
    scale = torch.tensor([0.5, -2.0], dtype=torch.float16).view(torch.uint8).view(2, 2)
    codes = torch.arange(-32, 32, dtype=torch.int8).view(2, 32)
    blocks = GgmlBlocks(torch.cat([scale, codes.view(torch.uint8)], 1), kind="q8_0")
    assert (blocks.shape, blocks.dtype, blocks.num_bytes) == ((2, 32), torch.float32, 68)
    assert torch.equal(blocks.load(), codes * torch.tensor([[0.5], [-2.0]]))
    turned = GgmlBlocks(blocks.blocks, kind="q8_0", transposed=True)
    assert turned.shape == (32, 2)
    assert torch.equal(turned.load(), blocks.load().T)
    assert len({blocks.digest, turned.digest}) == 2


@pytest.mark.parametrize("kind", sorted(SCALE_BYTES))
def test_scaled_ggml_blocks_have_scaled_values(kind: str) -> None:
    """Exactly for powers of two; a factor that leaves the range of float16 changes nothing."""
    values, size = block_size(kind)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 2, size), generator=generator, dtype=torch.uint8)
    for place in SCALE_BYTES[kind]:
        scales = torch.rand(3, 2, 1, generator=generator).half() + 0.5
        blocks[..., place : place + 2] = scales.view(torch.uint8)
    ref = GgmlBlocks(blocks.flatten(1), kind=kind)
    assert ref.scales_shape == (3, 2)
    factors = torch.tensor([[2.0, 0.5], [1.0, 4.0], [1e9, 1e-9]])
    expected = ref.load().view(3, 2, values).clone()
    expected[:2] *= factors[:2].unsqueeze(-1)
    assert torch.equal(ref.scaled(factors).load(), expected.view(3, 2 * values))
    assert torch.equal(ref.blocks, blocks.flatten(1))


def test_what_is_no_ggml_blocks_is_refused() -> None:
    rows = torch.zeros(2, 35, dtype=torch.uint8)
    with pytest.raises(
        CheckpointError, match=r"\(2, 35\) are not rows of q8_0; give uint8 with 34 bytes"
    ):
        GgmlBlocks(rows, kind="q8_0")
    with pytest.raises(CheckpointError, match=r"float32 \(2, 34\) are not rows of q8_0"):
        GgmlBlocks(torch.zeros(2, 34), kind="q8_0")
    with pytest.raises(CheckpointError, match=r"ggml type 'q9' is not known"):
        GgmlBlocks(rows, kind="q9")


@pytest.mark.parametrize("shape", [(6, 8), (5, 8), (6, 7), (3, 3)])
def test_blocks_share_a_scale(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    codes = torch.randn(shape, generator=draw).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-shape[0] // 4), -(-shape[1] // 4), generator=draw).bfloat16()
    ref = Quantized(codes, scales, bits=8, block_size=4)
    for row in range(shape[0]):
        for column in range(shape[1]):
            wanted = codes[row, column].float() * scales[row // 4, column // 4].float()
            assert ref.values(torch.float32)[row, column] == wanted
    assert (ref.group_size, ref.num_scales) == (4, scales.numel())
    assert ref.num_bytes == codes.numel() + 2 * scales.numel()


def test_four_bit_floats_store_their_scales_in_8_bits() -> None:
    codes, scales = torch.ones(2, 64, dtype=torch.int8), torch.ones(2, 4, dtype=torch.bfloat16)
    plain = Quantized(codes, scales, bits=4)
    mxfp4 = Quantized(codes, scales, bits=4, float4="mxfp4")
    nvfp4 = Quantized(codes, scales, bits=4, float4="nvfp4", global_scale=torch.ones(1))
    assert [each.num_bytes for each in (plain, mxfp4, nvfp4)] == [64 + 16, 64 + 8, 64 + 8 + 4]
    assert [each.storage_kind for each in (plain, mxfp4, nvfp4)] == ["int4", "mxfp4", "nvfp4"]
    assert len({each.digest for each in (plain, mxfp4, nvfp4)}) == 3
    with pytest.raises(CheckpointError, match=r"of format nvfp4 was given no global scale"):
        Quantized(codes, scales, bits=4, float4="nvfp4")
    with pytest.raises(CheckpointError, match=r"other than nvfp4 was given a global scale"):
        Quantized(codes, scales, bits=4, global_scale=torch.ones(1))


def test_blocks_are_told_apart_from_others_and_checked() -> None:
    codes, scales = torch.ones(2, 2).to(torch.float8_e4m3fn), torch.ones(1, 1)
    refs = [Quantized(codes, scales, bits=8, block_size=size) for size in (2, 4)]
    assert refs[0].digest != refs[1].digest
    with pytest.raises(CheckpointError, match=r"do not have the blocks of 1 of scales \(1, 1\)"):
        Quantized(codes, scales, bits=8, block_size=1)
