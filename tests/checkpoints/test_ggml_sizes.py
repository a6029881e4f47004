"""Sizes of ggml's blocks are those of the gguf package."""

from __future__ import annotations

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from birdbone.checkpoints.ggml_sizes import BLOCK_SIZES, block_size
from birdbone.errors import CheckpointError


@pytest.mark.parametrize("kind", BLOCK_SIZES)
def test_a_size_is_that_of_the_package(kind: str) -> None:
    assert block_size(kind) == GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]


@pytest.mark.parametrize("kind", ["q9_9", "", "Q4_0"])
def test_an_unknown_type_is_refused(kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"ggml type '{kind}' is not known"):
        block_size(kind)
