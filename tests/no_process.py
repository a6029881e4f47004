"""Figures and proof of a saved folder without the fresh processes that would give them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from birdbone.links.saving import acceptance
from birdbone.models.evaluation.fresh_process import Measurement, Probe
from birdbone.models.evaluation.proof import Proof

PERPLEXITY = 20.0

# The package's attribute of that name is the link.
save_module = import_module("birdbone.links.save")


def answer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let save take every folder for measured and proven, for tests of what comes beside."""

    async def measure(light: Path, dense: Path | None, probe: Probe, announce: Any) -> Measurement:
        found = {"weight_bytes": 1.0, "parameters": 2.0, "nonzero": 1.0, "perplexity": PERPLEXITY}
        return Measurement({"light": found}, {"device": "none"})

    monkeypatch.setattr(save_module, "measure_folders", measure)
    monkeypatch.setattr(acceptance, "own_perplexity", lambda *args, **kwargs: PERPLEXITY)
    prove_at_once(monkeypatch)


def prove_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let save take every folder for proven."""

    async def prove(folder: Path, **_: Any) -> Proof:
        return Proof(folder, ())

    monkeypatch.setattr(save_module, "prove", prove)
