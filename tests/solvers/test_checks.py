from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from birdbone.solvers.checks import working_dtype
from birdbone.solvers.gram import GramAccumulator


@pytest.fixture
def reduced_float32() -> Iterator[None]:
    """The user's own wish for fast, coarse float32 products on this process."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_raised_and_double_kept(given: torch.dtype, used: torch.dtype) -> None:
    assert working_dtype(torch.ones(1, dtype=given)) == used


@pytest.mark.usefixtures("reduced_float32")
def test_coarse_float32_products_are_never_used() -> None:
    accumulator = GramAccumulator(64)
    inputs = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    accumulator.add(inputs)
    exact = inputs.double().T @ inputs.double()
    torch.testing.assert_close(accumulator.gram().matrix, exact, atol=1e-9, rtol=0)
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
