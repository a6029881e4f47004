"""The ways users meet bird-bone, as the README shows them, on a tiny model from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import modulink
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from birdbone import Chain, run
from birdbone.links import calibrate, heal, load, profile, prune, quantize, save, score, validate
from birdbone.middleware import GpuMemory, Progress, Timing, WandbLogging
from birdbone.models import as_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder plain transformers wrote, wide enough for groups of 64."""
    folder = tmp_path / "dense"
    wide = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}
    tiny_model("llama", **wide).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def wandb_offline(quiet_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))


def offline_runs(folder: Path) -> list[Path]:
    return list(folder.glob("wandb/offline-run-*"))


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Two texts that are the same on every machine."""
    sentences = {
        "data": "the river runs past house {} and its garden. ",
        "elsewhere": "past the house {} runs the river to a garden. ",
    }
    for name, sentence in sentences.items():
        paragraphs = ("".join(sentence.format(7 * n + m) for m in range(12)) for n in range(200))
        (tmp_path / f"{name}.txt").write_text("\n\n".join(paragraphs))
    return {name: str(tmp_path / f"{name}.txt") for name in sentences}


@pytest.mark.usefixtures("wandb_offline")
async def test_assembling_a_chain(model: str, sources: dict[str, str], tmp_path: Path) -> None:
    told = []

    async def tell(ctx: dict[str, Any]) -> dict[str, Any]:
        told.append(ctx["verdict"].heldout.light.value)
        return ctx

    light = tmp_path / "light"
    parts = {**sources, "healing_windows": 8, "heldout_windows": 4, "elsewhere_windows": 4}
    chain = Chain(
        load(model=model), calibrate(windows=16, length=64, **parts), profile(), score(),
        prune(sparsity=0.3), heal(), quantize(bits=4), validate(max_rise=0.03), tell,
        save(path=str(light)),
    )  # fmt: skip
    chain.use(Timing())
    chain.use(GpuMemory())
    chain.use(Progress())
    chain.use(WandbLogging(project="light"))
    result = await run(chain)

    assert [step.link for step in result["history"]] == [
        *("load", "calibrate", "profile", "score", "prune", "heal", "quantize", "validate", "save")
    ]
    figures = result["saved"].figures
    assert told == [pytest.approx(figures["light"]["perplexity"], rel=1e-5)]
    assert figures["light"]["weight_bytes"] < figures["dense"]["weight_bytes"]
    assert figures["light"]["nonzero"] < figures["dense"]["nonzero"]
    reopened = AutoModelForCausalLM.from_pretrained(light)
    assert torch.isfinite(reopened(torch.arange(8)[None]).logits).all()
    assert offline_runs(tmp_path)


async def test_a_link_in_another_modulink_app() -> None:
    uploaded = []

    async def fetch(ctx: dict[str, Any]) -> dict[str, Any]:
        dense = tiny_model("llama", hidden_size=64, intermediate_size=128)
        return {**ctx, "checkpoint": as_checkpoint(dense, tiny_tokenizer())}

    async def upload(ctx: dict[str, Any]) -> dict[str, Any]:
        uploaded.append(ctx["checkpoint"])
        return ctx

    app = modulink.Chain(fetch, quantize(bits=4), upload)
    with pytest.warns(UserWarning, match=r"rounds to nearest.*calibrate\(\) before it"):
        result = await app.run(modulink.Context())
    assert "exception" not in result
    assert uploaded[0].num_bytes < uploaded[0].num_parameters * 4
    assert result["history"][0].metrics["method"] == "rtn"
    texts = {"windows": 2, "healing_windows": 1, "heldout_windows": 1, "elsewhere_windows": 1}
    better = modulink.Chain(fetch, calibrate(length=16, **texts), quantize(bits=4), upload)
    result = await better.run(modulink.Context())
    assert result["history"][-1].metrics["method"] == "gptq"
    assert "dense" not in result
