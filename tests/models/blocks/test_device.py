"""In which dtype a model is stored, computes and is evaluated, case by case."""

from __future__ import annotations

import pytest
import torch

from birdbone.checkpoints import Checkpoint, InMemory
from birdbone.models.blocks.device import compute_dtype, judged_dtype, stored_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def checkpoint(dtype: str | None, *tensors: torch.Tensor) -> Checkpoint:
    refs = {str(place): InMemory(tensor) for place, tensor in enumerate(tensors)}
    return Checkpoint({} if dtype is None else {"dtype": dtype}, refs)


@pytest.mark.parametrize(
    ("config", "tensor", "stored"),
    [
        ("bfloat16", torch.float32, torch.bfloat16),
        ("float32", torch.bfloat16, torch.bfloat16),
        ("float16", torch.bfloat16, torch.bfloat16),  # as wide, so not converted
        (None, torch.float32, torch.float32),
        ("nn", torch.float32, torch.float32),  # a name in torch that is no dtype
    ],
)
def test_a_tensor_is_stored_in_the_narrower_dtype(
    config: str | None, tensor: torch.dtype, stored: torch.dtype
) -> None:
    ref = InMemory(torch.ones(1).to(tensor))
    assert stored_dtype(checkpoint(config), ref) == stored


@pytest.mark.parametrize(
    ("config", "on_cpu", "on_cuda"),
    [
        ("bfloat16", torch.float32, torch.bfloat16),
        ("float32", torch.float32, torch.float32),
        (None, torch.float32, torch.bfloat16),  # of the first float
        ("nn", torch.float32, torch.bfloat16),
    ],
)
def test_cpus_compute_in_float32(
    config: str | None, on_cpu: torch.dtype, on_cuda: torch.dtype
) -> None:
    found = checkpoint(config, torch.arange(2), torch.ones(1).bfloat16(), torch.ones(1))
    assert compute_dtype(found, CPU) == judged_dtype(found, CPU) == on_cpu
    assert compute_dtype(found, CUDA) == judged_dtype(found, CUDA) == on_cuda


def test_float16_is_evaluated_in_float16_everywhere() -> None:
    found = checkpoint("float16")
    assert judged_dtype(found, CPU) == judged_dtype(found, CUDA) == torch.float16
    assert compute_dtype(found, CPU) == torch.float32
