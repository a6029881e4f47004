"""birdbone export: a saved folder in another format, codes kept where they can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.cli import app
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

UP = "model.layers.1.mlp.up_proj.weight"
WORDS = "the bone is thin where no load is carried and thick where it is "


def export(model: Path, out: Path, *args: object) -> Result:
    options = ["--out", str(out), "--quiet", "--windows", "0", *map(str, args)]
    return CliRunner().invoke(app, ["export", str(model), *options])


def opened(folder: Path, *, dequantize: bool = True) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)), dequantize=dequantize)


def test_codes_stay_as_they_are_where_no_type_is_given(folders: Path, tmp_path: Path) -> None:
    found = export(folders / "packed", tmp_path / "again", "--format", "compressed-tensors")
    assert found.exit_code == 0, found.output
    first, second = (
        place / "model.safetensors" for place in (folders / "packed", tmp_path / "again")
    )
    assert first.read_bytes() == second.read_bytes()


def test_a_dense_folder_is_rounded_to_the_type_asked_for(
    checkpoint: Checkpoint, folders: Path, tmp_path: Path
) -> None:
    arguments = ("--format", "compressed-tensors", "--type", "int8", "--json")
    found = export(folders / "dense", tmp_path / "light", *arguments)
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert [step["link"] for step in document["steps"]] == ["load", "quantize", "save"]
    assert document["steps"][1]["settings"]["scales"] in (None, "minmax")  # not searched
    ref = opened(tmp_path / "light", dequantize=False).refs[UP]
    assert isinstance(ref, Quantized)
    assert (ref.bits, ref.group_size) == (8, 32)
    error = (ref.load() - checkpoint.tensors[UP]).norm() / checkpoint.tensors[UP].norm()
    assert 0 < float(error) < 0.01


def test_codes_become_the_values_they_stand_for(folders: Path, tmp_path: Path) -> None:
    half = export(
        folders / "packed", tmp_path / "half", "--format", "safetensors", "--type", "bfloat16"
    )
    assert half.exit_code == 0, half.output
    values, found = opened(folders / "packed"), opened(tmp_path / "half")
    assert found.tensors.keys() == values.tensors.keys()
    for name, value in values.tensors.items():
        assert torch.equal(found.tensors[name], value.bfloat16()), name


def test_gguf_is_scored_on_text_too(checkpoint: Checkpoint, folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{n} {WORDS * 3}{n}" for n in range(400)))
    options = ("--out", tmp_path / "file", "--format", "gguf", "--type", "q8_0", "--data", text)
    command = [
        "export",
        str(folders / "dense"),
        *map(str, options),
        "--windows",
        "2",
        "--length",
        "16",
    ]
    found = CliRunner().invoke(app, [*command, "--quiet", "--json"])
    assert found.exit_code == 0, found.output
    figures = json.loads(found.stdout)["figures"]["light"]
    assert figures["perplexity"] > 1
    assert (tmp_path / "file" / "model.gguf").stat().st_size == figures["weight_bytes"]


def test_a_file_name_makes_a_file_with_records_beside_it(folders: Path, tmp_path: Path) -> None:
    """Saved and proven by llama.cpp itself, then read, replaced and proven again."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    out = tmp_path / "light.gguf"
    found = export(folders / "dense", out, "--type", "q8_0", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["path"] == str(out)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "light.gguf",
        "light.gguf.birdbone",
    ]
    assert out.read_bytes()[:4] == b"GGUF"
    assert sorted(each.name for each in (tmp_path / "light.gguf.birdbone").iterdir()) == [
        "README.md",
        "birdbone.json",
        "proof.json",
        "report.html",
    ]
    assert (
        "llama-cli -m path/to/light.gguf"
        in (tmp_path / "light.gguf.birdbone" / "README.md").read_text()
    )
    assert opened(out).num_parameters == opened(folders / "dense").num_parameters
    assert export(folders / "dense", out, "--type", "f16").exit_code == 0
    proven = CliRunner().invoke(app, ["prove", str(out), "--json"])
    assert proven.exit_code == 0, proven.output
    document = json.loads(proven.stdout)
    assert (document["folder"], document["proven"]) == (str(out), True)
    out.write_bytes(out.read_bytes() + b"more")
    damaged = CliRunner().invoke(app, ["prove", str(out), "--json"])
    failed = [each["name"] for each in json.loads(damaged.stdout)["checks"] if not each["holds"]]
    assert failed[:2] == ["files", "size"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--format", "onnx"),
            "format 'onnx' is not known; known: bitsandbytes, compressed-tensors",
        ),
        (("--format", "ggfu"), "did you mean 'gguf'?"),
        (("--format", "gguf", "--type", "int4"), "format 'gguf' has no type 'int4'; it has f32"),
        (("--format", "safetensors", "--type", "q4_0"), "it has float32, bfloat16, float16"),
        (("--format", "bitsandbytes"), "nf4 cannot hold shape"),
        ((), "give --format, one of safetensors"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    arguments: tuple[str, ...], message: str, folders: Path, tmp_path: Path
) -> None:
    found = export(folders / "dense", tmp_path / "light", *arguments)
    assert found.exit_code == 1
    assert message in " ".join(found.output.split())
    assert not (tmp_path / "light").exists()


def test_a_folder_of_somebody_else_is_kept(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    found = export(folders / "dense", tmp_path, "--format", "safetensors")
    assert found.exit_code == 1
    assert "was not made by birdbone" in found.output
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
