"""A small checkpoint with one tensor of every kind, for the tests of this room."""

import pytest
import torch

from birdbone.checkpoints import BitsAndBytes, Checkpoint, GgmlBlocks, InMemory, Quantized


@pytest.fixture
def small() -> Checkpoint:
    """Six values in two tensors, one config key, one file."""
    return Checkpoint(
        {"model_type": "tiny", "layers": 2},
        {"a": InMemory(torch.tensor([1.0, 0.0, -0.0, 3.0])), "b": InMemory(torch.ones(2, 1))},
        {"tokenizer.json": b"{}"},
        source="tiny/model",
    )


@pytest.fixture
def every_kind() -> Checkpoint:
    """One tensor of each kind a store keeps."""
    source = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    codes = torch.arange(-16, 16, dtype=torch.int8).reshape(4, 8)
    scales = torch.full((4, 2), 0.37, dtype=torch.bfloat16)
    return Checkpoint(
        {"model_type": "tiny"},
        {
            "plain": InMemory(source),
            "symmetric": Quantized(codes, scales, bits=8),
            "shifted": Quantized(codes, scales, bits=8, zero_points=codes[:, :2].contiguous()),
            "blocks": GgmlBlocks(torch.arange(36, dtype=torch.uint8).view(2, 18), kind="q4_0"),
            "turned": GgmlBlocks(
                torch.arange(34, dtype=torch.uint8).view(1, 34), kind="q8_0", transposed=True
            ),
            "nf4": BitsAndBytes(InMemory(source), source * 0.9, kind="nf4"),
        },
        {"tokenizer.json": b"{}", "chat.jinja": b""},
        source="tiny/model",
        parent="0" * 64,
    )
