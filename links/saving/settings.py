"""The settings of save."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...engine import Settings
from ...formats.ggml_types import GgmlKind
from .formats import Format


class SaveSettings(Settings):
    """The settings of save."""

    path: str
    """The folder; an existing one is replaced if birdbone wrote it. A path that ends in .gguf is a
    single GGUF file, whose records go into the folder PATH.birdbone beside it."""

    force: bool = False
    """Also replace a folder that birdbone did not write."""

    format: Format = "auto"
    """safetensors for plain values, compressed-tensors for integers, bitsandbytes for nf4 and
    llm.int8; auto uses the one that fits the weights, any other is refused. gguf is a file for
    llama.cpp, which must be installed to prove it (pip install 'birdbone[llama]')."""

    kind: GgmlKind | None = None
    """For gguf: the ggml type of the linears; by default f16, or that of their blocks. f32, f16 and
    bf16 also store quantised weights, as dequantised values."""

    max_shard_gb: Annotated[float, Field(gt=0)] = 5.0
    """Maximum size of a weight file in GB."""

    compare: bool = True
    """Also measure the original model."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Maximum relative difference of mean NLL and logits from those in memory; by default what the
    format can hold."""

    proof_tokens: Annotated[int, Field(ge=0)] = 512
    """Held-out tokens kept in the folder's proof.json with the model's outputs on them, so that
    anyone can prove the folder again; 0 keeps no text in any record and uses made-up ids."""

    samples: Annotated[int, Field(ge=0)] = 3
    """Prompts that the original and the saved model continue greedily by 48 tokens, for the record
    and the report: from held-out text, from elsewhere, and for the chat template; 0 for none."""

    report: bool = True
    """Also write report.html, a page about the model; its plots need the extra birdbone[plot]."""
