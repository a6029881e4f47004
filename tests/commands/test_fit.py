"""``birdbone fit``."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from birdbone.cli import app

FEW = [f"calibrate.{name}=2" for name in ("windows", "healing_windows", "heldout_windows")]
FEW += ["calibrate.elsewhere_windows=2", "calibrate.length=16", "save.compare=false"]


def run(command: str, *args: object) -> Result:
    return CliRunner().invoke(app, [command, *map(str, args)])


def sets(*more: str) -> list[str]:
    return [word for each in (*FEW, *more) for word in ("--set", each)]


def test_fit(folders: Path, tmp_path: Path) -> None:
    """The folder has the predicted size, and its record every candidate."""
    options = ("--out", tmp_path / "light", "--ratio", 0.4, "--json", "--run", tmp_path / "run")
    grids = sets("sensitivity.group_sizes=[16, 32, null]", "quantize.matching=0")
    text = ("--data", folders / "text.txt")
    found = run("fit", folders / "dense", *options, *grids, *text)
    assert found.exit_code == 0, found.output
    steps = json.loads(found.stdout)["steps"]
    assert [each["link"] for each in steps if each["within"] is None] == [
        *("load", "calibrate", "sensitivity", "allocate", "select", "heal", "validate", "save")
    ]
    candidates = [each["metrics"] for each in steps if each["link"] == "candidate"]
    assert len(candidates) >= 2
    assert [each["uniform"] for each in candidates].count(True) == 1
    kept = [each for each in candidates if each["kept"]]
    assert len(kept) == 1
    assert kept[0]["worse_rise"] == min(each["worse_rise"] for each in candidates)
    size = sum(path.stat().st_size for path in (tmp_path / "light").glob("*.safetensors"))
    assert size == kept[0]["predicted_bytes"]
    recorded = json.loads((tmp_path / "light" / "birdbone.json").read_text())["steps"]
    assert [each["metrics"] for each in recorded if each["link"] == "candidate"] == candidates
    assert "The candidates within the budget" in (tmp_path / "light" / "README.md").read_text()
    again = run("fit", folders / "dense", *options, *grids, *text)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["steps"] == steps  # replayed, times included


@pytest.mark.usefixtures("made_up_machine")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bytes", "40kB", "--bits", "3"), "states 2 budgets; give one of them"),
        (("--bytes", "40kB", "--rise", "0.05"), "states 2 budgets; give one of them"),
        (("--speed", "1.5x", "--ratio", "0.3"), "states 2 budgets; give one of them"),
        (("--speed", "1.5x"), "speed=1.5) is measured in llama.cpp, which runs GGUF files"),
        (("--bytes", "1kB"), "1,000 bytes is below the smallest size of"),
        (("--bytes", "1TB"), "give a smaller budget"),
        (("--memory", "20kB", "--context", "64"), "the KV cache of 64 tokens alone takes 24,576"),
        (("--memory", "1MB", "--ratio", "0.3"), "states 2 budgets; give one of them"),
        (("--speed", "fast"), "'fast' is not a ratio; write one such as 1.5 or 1.5x"),
        (("--bytes", "small"), "is not a size; write one such as 80MB"),
        (("--runtime", "vllm", "--bytes", "30kB"), "was seen to load"),
        (("--set", "quantize.bits=3"), "is decided by allocate"),
        (("--remove", "0.001"), "remove=0.001: prune(pattern='neurons', sparsity=0.001): 64 of 64"),
        (("--remove", "0.5", "--ratio", "0.9"), "remove=0.5: allocate(bytes=169,675) allows"),
        (("--remove", "0.5", "--rise", "0.1"), "has none; give a budget"),
    ],
)
def test_refused_before_work(
    options: tuple[str, ...], message: str, folders: Path, tmp_path: Path
) -> None:
    """Neither text is sampled nor a weight read."""
    grids = sets("sensitivity.group_sizes=[16, null]")
    out = ("--out", tmp_path / "light", "--run", tmp_path / "run")
    found = run("fit", folders / "dense", *out, *grids, *options)
    assert found.exit_code == 1
    assert message in " ".join(found.output.split())
    assert not (tmp_path / "light").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--no-heal", "--preset=fast"])
def test_without_healing(option: str, folders: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "light", "--ratio", 0.4, option, "--json")
    grids = sets("sensitivity.group_sizes=[16, 32, null]", "quantize.method=rtn")
    found = run("fit", folders / "dense", *options, *grids, "--data", folders / "text.txt")
    assert found.exit_code == 0, found.output
    steps = [each["link"] for each in json.loads(found.stdout)["steps"] if not each["within"]]
    assert steps[-2:] == ["select", "save"]


def test_rise(folders: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "light", "--rise", 0.5, "--json", "--data", folders / "text.txt")
    grids = sets("sensitivity.group_sizes=[16, null]", "quantize.method=rtn", "allocate.steps=4")
    found = run("fit", folders / "dense", *options, *grids)
    assert found.exit_code == 0, found.output
    steps = json.loads(found.stdout)["steps"]
    tried = [each["metrics"] for each in steps if each["link"] == "candidate"]
    kept = next(each for each in tried if each["kept"])
    assert 1 <= len(tried) <= 3
    assert kept["worse_rise"] <= 0.5
    good = [each["predicted_bytes"] for each in tried if each["worse_rise"] <= 0.5]
    assert kept["predicted_bytes"] == min(good)


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp is not installed")
def test_gguf(folders: Path, tmp_path: Path) -> None:
    """The file has the predicted size, embedding and head are among what is allocated."""
    out, text = tmp_path / "light.gguf", ("--data", folders / "text.txt")
    options = ("--out", out, "--ratio", 0.27, "--json", *text, *sets("quantize.matching=0"))
    found = run("fit", folders / "dense", *options)
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    tried = [each["metrics"] for each in document["steps"] if each["link"] == "candidate"]
    assert [each["uniform"] for each in tried].count(True) == 1
    kept = next(each for each in tried if each["kept"])
    assert kept["worse_rise"] == min(each["worse_rise"] for each in tried)
    assert out.stat().st_size == kept["predicted_bytes"]
    assert sum(kept["grids"].values()) == 23
    assert set(kept["grids"]) <= {"q4_0", "q5_0", "q8_0", "iq4_nl"}
    allocated = next(each["metrics"] for each in document["steps"] if each["link"] == "allocate")
    assert kept["predicted_bytes"] <= allocated["budget_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bytes", "1kB"), "is below the smallest size of"),
        (("--bytes", "1TB"), "give a smaller budget"),
        (("--runtime", "vllm"), "vllm was not seen to load a GGUF file"),
        (("--set", "sensitivity.bits=[4]"), "is not a setting of format 'gguf'; set types"),
    ],
)
def test_gguf_refused_before_work(
    options: tuple[str, ...], message: str, folders: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "light.gguf", "--run", tmp_path / "run")
    found = run("fit", folders / "dense", *out, *sets(), *options)
    assert found.exit_code == 1
    assert message in " ".join(found.output.split())
    assert not (tmp_path / "run").exists()


def test_types_need_a_file(folders: Path, tmp_path: Path) -> None:
    """A folder would store the values of ggml's blocks as floats, far above the budget."""
    options = (
        "--out",
        tmp_path / "light",
        "--set",
        "sensitivity.format=gguf",
        "--ratio",
        0.27,
        *sets(),
    )
    found = run("fit", folders / "dense", *options)
    assert found.exit_code == 1
    assert "give the name of a GGUF file" in " ".join(found.output.split())


def test_unknown_runtime(folders: Path, tmp_path: Path) -> None:
    found = run("fit", folders / "dense", "--out", tmp_path / "light", "--runtime", "tgi")
    assert found.exit_code == 1
    assert "Input should be 'transformers', 'vllm' or 'llama.cpp'" in " ".join(found.output.split())


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp is not installed")
@pytest.mark.usefixtures("made_up_machine")
def test_removal_reaches_a_speed(folders: Path, tmp_path: Path) -> None:
    """No types of the whole model are fast enough; those without half of the neurons are."""
    out = tmp_path / "light.gguf"
    options = ("--out", out, "--speed", "2.4x", "--remove", 0.5, "--json")
    more = ("save.proof_tokens=0", "sensitivity.types=['q8_0', 'q4_0']", "quantize.matching=0")
    text = ("--data", folders / "text.txt")
    found = run("fit", folders / "dense", *options, *sets(*more), *text)
    assert found.exit_code == 0, found.output
    steps = json.loads(found.stdout)["steps"]
    tried = [each["metrics"] for each in steps if each["link"] == "candidate"]
    assert [each["kept"] for each in tried].count(True) == 1
    whole, *smaller = tried
    assert whole["speed"] < 2.4 <= min(each["speed"] for each in smaller)
    assert "no ggml types make the model run 2.4 times as fast" in whole["reason"]
    assert "neurons" in next(each["candidate"] for each in tried if each["kept"])
    assert out.is_file()
