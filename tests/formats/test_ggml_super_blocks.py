"""Blocks of ours are what a reader of ggml's takes them for; the judge is gguf's own."""

from __future__ import annotations

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from birdbone.formats.ggml_encoding import encode
from birdbone.formats.ggml_types import GgmlKind


def weights(rows: int = 24, width: int = 512) -> Tensor:
    """Rows and groups of unlike size, as weights are."""
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(rows, width // 16, 1, generator=generator) * 3
    return (torch.randn(rows, width // 16, 16, generator=generator) * size).view(rows, width)


def read(values: Tensor, kind: GgmlKind) -> Tensor:
    return torch.from_numpy(
        dequantize(encode(kind, values, "x"), GGMLQuantizationType[kind.upper()])
    )


# ggml's own quantiser makes errors of 7.7 (Q4_K) and 1.75 (Q6_K) in a hundred of these weights.
@pytest.mark.parametrize(
    ("kind", "bits", "most"),
    [
        ("q2_k", 2.625, 0.27),
        ("q3_k", 3.4375, 0.145),
        ("q4_k", 4.5, 0.079),
        ("iq4_nl", 4.5, 0.079),
        ("q5_k", 5.5, 0.0396),
        ("q6_k", 6.5625, 0.018),
    ],
)
def test_values_come_back_nearly(kind: GgmlKind, bits: float, most: float) -> None:
    values = weights()
    assert encode(kind, values, "x").size * 8 == values.numel() * bits
    assert 0 < (read(values, kind) - values).norm() / values.norm() < most


@pytest.mark.parametrize("kind", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl"])
def test_each_column_keeps_its_place(kind: GgmlKind) -> None:
    """A layout with two columns exchanged would give a small error on noise, a large one here."""
    values = torch.zeros(256, 256)
    values.fill_diagonal_(1.0)
    atol = 1e-2 if kind == "iq4_nl" else 1e-3  # zeros beside a large weight are not exact there
    assert torch.allclose(read(values, kind), values, atol=atol)


def test_q6_k_of_nothing_and_of_one_sign() -> None:
    values = weights(4, 256)
    values[0] = 0.0
    values[1] = values[1].abs()
    values[2, :16] = 0.0
    found = read(values, "q6_k")
    assert (found[0] == 0).all()
    assert (found[2, :16] == 0).all()
    assert found.isfinite().all()
    assert ((found - values).norm(dim=1) < 0.03 * values.norm(dim=1) + 1e-9).all()


def test_values_off_the_grid_come_back_to_it() -> None:
    once = read(weights(), "q6_k")
    assert (read(once, "q6_k") - once).norm() < 3e-3 * once.norm()
