"""A written model: how it is measured, what of it is compared, and when it counts as proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import NAME, pretended
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import written
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.checkpoints.placement import on_device
from birdbone.errors import ProofError
from birdbone.links.saving import judging
from birdbone.links.saving.judging import Judged, judge_saved, probe_for, record_of, require_proven
from birdbone.links.saving.settings import SaveSettings
from birdbone.models.evaluation.fresh_process import Measurement, Probe
from birdbone.models.evaluation.proof import Check, Proof
from birdbone.models.reading.stored_dtypes import as_dtype

HELD, PAPER = tiny_windows(3), tiny_windows(2, seed=1)
PROBE = Probe(tokens=None, dtype=torch.float32)


def context(checkpoint: Checkpoint) -> Any:
    return {"checkpoint": checkpoint, "dense": checkpoint, "history": ()}


def measured(**light: float) -> Measurement:
    return Measurement({"light": {"weight_bytes": 1e5, **light}}, {})


def test_the_probe_holds_both_texts() -> None:
    found = probe_for(tiny_checkpoint(), {"heldout": HELD, "elsewhere": PAPER})
    assert found.tokens is HELD.tokens
    assert found.elsewhere is PAPER.tokens
    assert (found.device, found.dtype, found.trust_remote_code) == ("cpu", torch.float32, False)


def test_without_text_only_size_and_speed() -> None:
    found = probe_for(tiny_checkpoint(), {})
    assert (found.tokens, found.elsewhere) == (None, None)


def test_the_probe_uses_the_device_of_the_run() -> None:
    with pretended():
        assert probe_for(tiny_checkpoint(), {}).device.startswith(NAME)
        with on_device("cpu"):
            assert probe_for(tiny_checkpoint(), {}).device == "cpu"


def test_code_in_the_model_is_allowed_to_run() -> None:
    """It was when the model was loaded, or there would be no model."""
    plain = tiny_checkpoint()
    own = Checkpoint(plain.config, plain.refs, {**plain.files, "modeling_own.py": b"A = 1"})
    assert probe_for(own, {}).trust_remote_code


async def test_a_folder_is_compared_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def measure(folder: Path, beside: Path | None, probe: Probe, _: Any) -> Measurement:
        asked.append((folder, beside, probe))
        return measured()

    monkeypatch.setattr(judging, "measure_folders", measure)
    checkpoint = tiny_checkpoint()
    settings = SaveSettings(path="light", tolerance=0.25)
    found = await judge_saved(
        context(checkpoint), "safetensors", tmp_path, tmp_path / "light", None, PROBE, settings
    )
    assert asked == [(tmp_path, None, PROBE)]
    assert found.stored is checkpoint
    assert found.tolerance == 0.25


async def test_a_folder_that_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(*_: Any) -> Measurement:
        return measured(perplexity=2000.0)

    monkeypatch.setattr(judging, "measure_folders", measure)
    ctx = {**context(tiny_checkpoint()), "heldout": HELD}
    with pytest.raises(ProofError, match="perplexity"):
        await judge_saved(
            ctx, "safetensors", tmp_path, tmp_path / "o", None, PROBE, SaveSettings(path="o")
        )


async def test_a_file_is_compared_with_what_it_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding to q8_0 is not held against the file; it is measured."""
    seen: dict[str, Any] = {}

    async def judge(ctx: Any, stored: Checkpoint, file: Path, *_: Any, tolerance: float) -> Any:
        seen.update(stored=stored, file=file, tolerance=tolerance)
        return measured()

    monkeypatch.setattr(judging, "judge_file", judge)
    checkpoint = gguf_checkpoint("llama")
    for kind, exact in (("f32", True), ("q8_0", False)):
        settings = SaveSettings(path="a.gguf", kind=kind)  # type: ignore[arg-type]
        found = await judge_saved(
            context(checkpoint), "gguf", tmp_path, tmp_path / "a.gguf", None, PROBE, settings
        )
        name = "model.layers.0.mlp.up_proj.weight"
        same = torch.equal(found.stored.tensors[name], checkpoint.tensors[name])
        assert same is exact
        assert found.stored is seen["stored"]
        assert seen["file"] == tmp_path / "a.gguf"
        assert found.tolerance == seen["tolerance"] > 0


async def test_the_record_has_the_tokens_asked_for() -> None:
    judged = Judged(measured(), tiny_checkpoint(), 0.125)
    record = await record_of(judged, HELD, 16)
    assert record.tolerance == 0.125
    assert [each.tokens for each in record.windows] == HELD.tokens[:1].tolist()
    assert record.text == HELD.text
    made_up = await record_of(judged, HELD, 0)
    assert made_up.text == "ids drawn at random"
    assert made_up.windows[0].tokens[:16] != HELD.tokens[0].tolist()


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
async def test_what_is_not_proven_names_each_check(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that fail and those that cannot be made; not those that hold."""
    checks = (
        Check("files", True, "fine"),
        Check("size", None, "none"),
        Check("logits", False, "off"),
    )

    async def prove(folder: Path, **_: Any) -> Proof:
        return Proof(folder, checks)

    monkeypatch.setattr(judging, "prove_gguf" if form == "gguf" else "prove", prove)
    with pytest.raises(ProofError) as refused:
        await require_proven(tmp_path, form, PROBE)
    assert str(refused.value) == "the saved folder is not proven: size: none; logits: off"


async def test_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    async def prove(folder: Path, **how: Any) -> Proof:
        asked.update(folder=folder, trust=how["trust_remote_code"])
        return Proof(folder, (Check("files", True, "fine"),))

    monkeypatch.setattr(judging, "prove", prove)
    folder = written(tiny_checkpoint(num_hidden_layers=1), tmp_path / "light")
    await require_proven(folder, "safetensors", PROBE)
    assert asked == {"folder": folder, "trust": False}


def test_half_precision_is_judged_as_it_is_stored() -> None:
    half = as_dtype(tiny_checkpoint(num_hidden_layers=1), torch.bfloat16)
    assert probe_for(half, {}).dtype in (torch.bfloat16, torch.float32)
    assert probe_for(half, {}).dtype == probe_for(half, {"heldout": HELD}).dtype
