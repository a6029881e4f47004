"""Every Python snippet of a model card, and of docs/lora.md, runs as printed on a fresh load."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import for_bitsandbytes, own_logits, quantized, written
from torch import Tensor
from transformers import AutoModelForCausalLM

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.models.blocks.linears import all_linears
from birdbone.models.codecs.peft_adapter import adapter_files
from birdbone.models.writing.folder import weight_format
from birdbone.models.writing.trial import as_plain
from birdbone.reports.card import model_card
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
LORA_PAGE = Path(__file__).parents[2] / "docs" / "lora.md"


def card_of(checkpoint: Checkpoint) -> str:
    return model_card(
        name="light",
        checkpoint=checkpoint,
        weight_format=weight_format(checkpoint),
        history=(),
        figures={"light": {"nonzero": 1.0, "parameters": 1.0}},
        measured_on={},
    )


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_snippets(text: str, paths: dict[str, Path]) -> list[dict[str, Any]]:
    """The names each snippet leaves, run one after the other in one namespace."""
    names: dict[str, Any] = {}
    left = []
    for snippet in snippets(text):
        for printed, path in paths.items():
            snippet = snippet.replace(printed, str(path))
        exec(compile(snippet, "snippet", "exec"), names)
        left.append(dict(names))
    return left


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(tiny_windows(2).tokens, use_cache=False).logits


def corrected(checkpoint: Checkpoint) -> Checkpoint:
    """With an adapter beside the weights."""
    draw = torch.Generator().manual_seed(0)
    factors = {
        linear: tuple(torch.randn(size, generator=draw) / 10 for size in ((rows, 2), (2, width)))
        for linear in all_linears(checkpoint)
        for rows, width in [linear.shape]
    }
    files = adapter_files(factors, rank=2, dtype=torch.float32)  # type: ignore[arg-type]
    return replace(checkpoint, files={**checkpoint.files, **files})


@pytest.mark.parametrize("kind", ["dense", "packed", "nf4"])
def test_loading_runs_as_printed(kind: str, tmp_path: Path) -> None:
    plain = tiny_checkpoint(hidden_size=64)
    made = {
        "dense": plain,
        "packed": quantized(plain),
        "nf4": for_bitsandbytes(plain, "nf4"),
    }[kind]
    folder = written(made, tmp_path / "light")
    left = run_snippets(card_of(made), {"path/to/this/folder": folder})
    assert left[0]["tokenizer"]("the").input_ids
    assert logits(left[0]["model"]).isfinite().all()
    assert len(left) == (2 if kind == "packed" else 1)


@pytest.mark.parametrize("kind", ["dense", "packed"])
def test_the_adapter_is_added_as_printed(kind: str, tmp_path: Path) -> None:
    made = tiny_checkpoint() if kind == "dense" else quantized(tiny_checkpoint())
    folder = written(corrected(made), tmp_path / "light")
    left = run_snippets(card_of(corrected(made)), {"path/to/this/folder": folder})
    plain, with_adapter = logits(left[0]["model"]), logits(left[1]["model"])
    assert float((with_adapter - plain).abs().mean()) > 1e-3


def eight_bit_embedding(checkpoint: Checkpoint) -> Checkpoint:
    name = "model.embed_tokens.weight"
    grid = Grid(bits=8, group_size=None)
    made = quantize_round_to_nearest(checkpoint.tensors[name], grid=grid, scale_dtype=torch.float32)
    return checkpoint.evolve({name: Quantized(made.codes, made.scales, bits=8)})


PACKED = {
    "groups": lambda: quantized(tiny_checkpoint()),
    "rows and groups": lambda: quantized(tiny_checkpoint(), up_proj=Grid(bits=4, group_size=None)),
    "bits": lambda: quantized(tiny_checkpoint(), up_proj=Grid(bits=8, group_size=16)),
    "tied embedding": lambda: eight_bit_embedding(quantized(tiny_checkpoint("llama_tied"))),
}


@pytest.mark.parametrize("kind", PACKED)
def test_an_adapter_is_trained_on_a_packed_folder_as_printed(kind: str, tmp_path: Path) -> None:
    made = PACKED[kind]()
    folder = written(made, tmp_path / "light")
    model = run_snippets(card_of(made), {"path/to/this/folder": folder})[-1]["model"]
    assert torch.allclose(logits(model), own_logits(made)[:2], atol=1e-5)
    tokens = tiny_windows(2).tokens
    model(tokens, labels=tokens).loss.backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_the_page_on_adapters_runs_as_printed(tmp_path: Path) -> None:
    made = quantized(tiny_checkpoint())
    written(tiny_checkpoint(), tmp_path / "dense")
    written(made, tmp_path / "packed")
    written(as_plain(made), tmp_path / "unpacked")
    names = ("dense", "packed", "unpacked", "adapter", "merged")
    paths = {f"path/to/{name}": tmp_path / name for name in names}
    left = run_snippets(LORA_PAGE.read_text(encoding="utf-8"), paths)
    assert len(left) == 4
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not getattr(merged.config, "quantization_config", None)
    assert torch.allclose(logits(merged), own_logits(made)[:2], atol=1e-5)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (
            b"---\nlicense: other\nlicense_name: gemma\ntags:\n- x\n---\nlicense: text\n",
            ["license: other", "license_name: gemma"],
        ),
        (b"# no metadata\nlicense: mit\n", []),
        (b"---\nlicense: mit\n", []),
        (b"\xff\xfe", []),
    ],
)
def test_the_licence_of_the_source_is_in_the_metadata(card: bytes, expected: list[str]) -> None:
    plain = tiny_checkpoint()
    text = card_of(replace(plain, files={**plain.files, "SOURCE_README.md": card}))
    metadata = text.split("---")[1].splitlines()
    assert [line for line in metadata if line.startswith("license")] == expected
