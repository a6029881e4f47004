"""llama.cpp in a fresh process: what it says of a file, and what is said where it cannot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_contexts import overflowing
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.errors import BirdboneError, MissingExtraError
from birdbone.formats import llama_cpp
from birdbone.formats.gguf_writer import write_gguf
from birdbone.formats.llama_cpp import measure_gguf, require_llama_cpp
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.fresh_process import Probe

needs_llama_cpp = pytest.mark.skipif(
    llama_cpp.find_spec("xllamacpp") is None, reason="llama.cpp is not installed"
)


def perplexity(checkpoint: Checkpoint, tokens: torch.Tensor) -> float:
    """In memory."""
    model = Skeleton(checkpoint).fill().eval()
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    return math.exp(float(loss))


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["f32", "q8_0"])
async def test_it_scores_the_very_tokens(kind: Any, tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint()
    path = write_gguf(checkpoint, tmp_path / "model.gguf", kind=kind).path
    size = int(checkpoint.config["vocab_size"])
    generator = torch.Generator().manual_seed(3)
    # Any token at all: among them bytes that are no letter by themselves, and ends of text.
    tokens = torch.randint(0, size, (2, 40), generator=generator)
    tokens[0, 7] = int(checkpoint.config["eos_token_id"])
    probe = Probe(tokens, torch.float32, prefill_tokens=8, decode_tokens=4, repeats=1)
    found = await measure_gguf(path, probe, size, lambda *_: None)
    measured = found.figures["light"]["perplexity"]
    bound = {"f32": 2e-3, "q8_0": 3e-2}[kind]
    assert math.log(measured) == pytest.approx(math.log(perplexity(checkpoint, tokens)), rel=bound)
    assert found.environment["llama.cpp"].startswith("xllamacpp ")


@needs_llama_cpp
async def test_logits_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    """llama.cpp brings activations into float16 where the weights are, and says null for NaN."""
    path = write_gguf(overflowing(gguf_checkpoint()), tmp_path / "model.gguf", kind="f16").path
    tokens = torch.randint(4, 100, (1, 20), generator=torch.Generator().manual_seed(3))
    probe = Probe(tokens, torch.float32, prefill_tokens=8, decode_tokens=4, repeats=1)
    with pytest.raises(BirdboneError, match=r"its logits are NaN or infinite; .* kind bf16 or f32"):
        await measure_gguf(path, probe, 128, lambda *_: None)


@needs_llama_cpp
async def test_a_file_it_cannot_open_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(400))
    probe = Probe(None, torch.float32, prefill_tokens=8, decode_tokens=4, repeats=1)
    with pytest.raises(BirdboneError, match=r"llama\.cpp cannot open and run the saved model"):
        await measure_gguf(tmp_path / "broken.gguf", probe, 128, lambda *_: None)


def test_without_it_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'birdbone\[llama\]'"):
        require_llama_cpp()
