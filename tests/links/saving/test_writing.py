"""Bytes on disk while a model is saved, and the format it is written in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_folders import for_bitsandbytes, quantized

from birdbone.checkpoints import BitsAndBytes
from birdbone.links.saving.formats import chosen_form
from birdbone.links.saving.settings import SaveSettings
from birdbone.links.saving.writing import needed_bytes, write_as

DENSE = tiny_checkpoint(hidden_size=64)
MADE = {
    "safetensors": DENSE,
    "compressed-tensors": quantized(DENSE),
    "bitsandbytes": for_bitsandbytes(DENSE, "nf4"),
}


@pytest.mark.parametrize("form", MADE)
async def test_auto_takes_what_the_weights_are_made_for(form: str, tmp_path: Path) -> None:
    light = MADE[form]
    assert chosen_form(light, "auto", None) == form
    settings = SaveSettings(path=str(tmp_path / "light"))
    await write_as(form, light, tmp_path, tmp_path / "light", settings)
    config = json.loads((tmp_path / "config.json").read_text())
    method = config.get("quantization_config", {}).get("quant_method", "safetensors")
    assert method == form


def test_disk_holds_the_model_the_original_and_unpacked_weights() -> None:
    light = MADE["bitsandbytes"]
    alone, beside = needed_bytes(light, None), needed_bytes(light, DENSE)
    assert beside - alone == DENSE.num_bytes
    refs: Any = [ref for ref in light.refs.values() if isinstance(ref, BitsAndBytes)]
    unpacked = sum(ref.source.num_bytes for ref in refs)
    assert unpacked > 0
    spare = needed_bytes(DENSE, None) - DENSE.num_bytes
    assert alone == light.num_bytes + unpacked + spare
