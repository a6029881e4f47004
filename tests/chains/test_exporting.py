"""The chain of birdbone export: what it loads as codes, and what it leaves to save."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_folders import quantized, written
from tiny_gguf import gguf_checkpoint

from birdbone.chains.exporting import export_chain
from birdbone.errors import SettingError


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(quantized(gguf_checkpoint("llama")), tmp_path_factory.mktemp("packed") / "light")


@pytest.mark.parametrize(
    ("format", "type", "keeps_codes", "kind"),
    [
        ("gguf", None, True, None),
        ("gguf", "q8_0", False, "q8_0"),
        ("compressed-tensors", None, True, None),
        ("safetensors", None, False, None),
    ],
)
def test_codes_are_kept_where_no_type_is_given_and_the_format_has_codes(
    format: str, type: str | None, keeps_codes: bool, kind: str | None, packed: Path
) -> None:
    chain = export_chain(model=str(packed), out="out", format=format, type=type)
    first, *_, last = chain.links
    assert first.settings.dequantize is not keeps_codes
    assert last.settings.kind == kind


@pytest.fixture
def float8(packed: Path, tmp_path: Path) -> Path:
    """A folder that says its codes are float8; nothing but its config is looked at."""
    folder = shutil.copytree(packed, tmp_path / "float8")
    config = json.loads((folder / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["weights"] |= {"type": "float", "num_bits": 8}
        group["format"] = "float-quantized"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_codes_that_are_no_integers_become_values_in_a_gguf_file(float8: Path) -> None:
    first, *_, last = export_chain(model=str(float8), out="out", format="gguf").links
    assert first.settings.dequantize
    assert last.settings.kind == "f16"


def test_codes_that_cannot_be_kept_are_not_rounded_unasked(float8: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot be kept as they are.*int2, int3"):
        export_chain(model=str(float8), out="out", format="compressed-tensors")


@pytest.mark.parametrize(("elsewhere", "num_windows"), [(None, 1), ("notes.txt", 7)])
def test_text_from_elsewhere_is_as_long_as_the_held_out_text(
    elsewhere: str | None, num_windows: int, packed: Path
) -> None:
    chain = export_chain(model=str(packed), out="a.gguf", elsewhere=elsewhere, windows=7)
    settings = chain.links[1].settings
    assert (settings.elsewhere, settings.elsewhere_windows) == (elsewhere, num_windows)
    assert settings.heldout_windows == 7


def test_rounded_inputs_are_kept_or_given_up_by_name(packed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed, tmp_path / "w8a8")
    config = json.loads((folder / "config.json").read_text())
    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] = inputs
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingError, match=r"round their inputs.*give a type, such as q8_0"):
        export_chain(model=str(folder), out="a.gguf")
    first, *_ = export_chain(model=str(folder), out="a.gguf", type="q8_0").links
    assert first.settings.dequantize
    first, *_ = export_chain(model=str(folder), out="out", format="compressed-tensors").links
    assert not first.settings.dequantize
