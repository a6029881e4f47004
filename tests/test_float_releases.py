"""Models published in float8 or MXFP4 alone, from the command line to a proven 4-bit folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from float_folders import deepseek_v3, save_float8, save_mxfp4
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from birdbone.cli import app

WORDS = "the bone is thin where no load is carried and thick where it is "
FEW = [f"calibrate.{name}=2" for name in ("windows", "healing_windows", "heldout_windows")]
FEW += ["calibrate.elsewhere_windows=1", "calibrate.length=16", "save.compare=false"]
FEW += ["quantize.group_size=auto", "validate.max_rise=9"]


def float8_release(folder: Path) -> Path:
    """As DeepSeek-V3, with a scale of activations and a head for multi-token prediction."""
    save_float8(folder, deepseek_v3())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.input_scale"] = torch.ones(1)
    weights["model.layers.3.eh_proj.weight"] = torch.ones(64, 128, dtype=torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


RELEASES: dict[str, Callable[[Path], Path]] = {"float8": float8_release, "mxfp4": save_mxfp4}
CODES = {"float8": "weight_scale_inv", "mxfp4": "_scales"}


def birdbone(command: str, *args: object) -> Result:
    found = CliRunner().invoke(app, [command, *map(str, args)])
    assert found.exit_code == 0, found.output
    return found


@pytest.mark.parametrize("kind", RELEASES)
def test_a_release_is_inspected_quantised_proven_and_verified(kind: str, tmp_path: Path) -> None:
    source, light = RELEASES[kind](tmp_path / "source"), tmp_path / "light"
    (tmp_path / "text.txt").write_text("\n\n".join(f"{WORDS * 6}{n}" for n in range(30)))
    sets = [word for each in FEW for word in ("--set", each)]
    options = ("--out", light, "--preset", "fast", "--data", tmp_path / "text.txt", *sets)
    made = birdbone("quantize", source, *options, "--json")
    assert [each["link"] for each in json.loads(made.stdout)["steps"]][-1] == "save"
    stored = load_file(light / "model.safetensors")
    assert [name for name in stored if name.endswith("self_attn.o_proj.weight_packed")]
    assert not [name for name in stored if name.endswith(CODES[kind])]
    ends = {"mxfp4": "experts.down_proj", "float8": "experts.0.down_proj.weight_packed"}
    experts = {each.dtype for name, each in stored.items() if name.endswith(ends[kind])}
    assert experts == ({torch.bfloat16} if kind == "mxfp4" else {torch.int32})
    assert json.loads(birdbone("prove", light, "--json").stdout)["proven"]
    birdbone("verify", light, "--source", source)
    before, after = (inspected(folder)["contents"] for folder in (source, light))
    assert after["unused"] == before["unused"]  # carried unchanged


def inspected(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(birdbone("inspect", folder, "--json").stdout)
    return found


@pytest.mark.parametrize("kind", RELEASES)
def test_inspect_accounts_for_every_byte_of_a_release(kind: str, tmp_path: Path) -> None:
    folder = RELEASES[kind](tmp_path / "source")
    weights = load_file(folder / "model.safetensors")
    found = inspected(folder)
    contents = found["contents"]
    kinds = {"float8": (torch.float8_e4m3fn, torch.float32), "mxfp4": (torch.uint8,)}[kind]
    codes = {n: each for n, each in weights.items() if each.dtype in kinds}
    codes.pop("model.layers.0.mlp.up_proj.input_scale", None)
    plain = sum(each.nbytes for each in weights.values() if each.dtype == torch.bfloat16)
    stored = sum(each.nbytes for each in codes.values())
    unused = 64 * 128 * 2 if kind == "float8" else 0
    assert contents["unused"] == ({"model.layers.3.eh_proj.weight": unused} if unused else {})
    assert contents["model_bytes"] == plain - unused + stored
    # Two MXFP4 numbers of a byte are two bfloat16 values; a float8 is a float32.
    values = (
        sum(4 * each.numel() for each in codes.values() if each.dtype == torch.float8_e4m3fn)
        if kind == "float8"
        else sum(4 * each.numel() for n, each in codes.items() if n.endswith("_blocks"))
    )
    assert contents["loaded_bytes"] == plain - unused + values
    assert contents["codes"]["stored_bytes"] == stored  # type: ignore[index]
    left = [each["name"] for each in contents["left_out"]]  # type: ignore[attr-defined]
    assert left == (["model.layers.0.mlp.up_proj.input_scale"] if unused else [])


SAID = {
    "float8": (
        "once loaded 520,464 bytes (520.5 kB): 28 quantised weights are read as float32 values",
        "unused, carried 1 tensors (16,384 bytes) without a parameter: model.layers.3",
        "left out model.layers.0.mlp.up_proj.input_scale (4 bytes): a scale of activations",
    ),
    "mxfp4": (
        "in the model 79,664 bytes of them",
        "once loaded 187,952 bytes (188.0 kB): 6 quantised weights are read as bfloat16 values",
    ),
}


@pytest.mark.parametrize("kind", RELEASES)
def test_the_account_of_a_release_in_words(kind: str, tmp_path: Path) -> None:
    text = " ".join(birdbone("inspect", RELEASES[kind](tmp_path / "source")).output.split())
    for expected in SAID[kind]:
        assert expected in text
