"""log, diff, revert and gc on the folder of a run, as people and programs meet them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, digests
from tiny_folders import for_bitsandbytes, quantized, written
from tiny_gguf import gguf_checkpoint
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from birdbone.checkpoints import Checkpoint
from birdbone.cli import app
from birdbone.contexts.flow import Empty
from birdbone.engine import Chain, link, run, unfinished
from birdbone.formats.gguf_writer import write_gguf
from birdbone.journal import Journal, RunFolder
from birdbone.links import heal, profile, prune, quantize, score
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.stored_dtypes import as_dtype


def chain(sparsity: float) -> Chain:
    return Chain(
        profile(),
        score(),
        prune(sparsity=sparsity),
        heal(method="lora", rank=2, epochs=1, learning_rate=1e-6),
        quantize(group_size=32),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one folder: one at sparsity 0.5, and after it one at 0.25."""
    path = tmp_path_factory.mktemp("runs") / "light"
    for sparsity in (0.5, 0.25):
        with RunFolder(path) as store:
            asyncio.run(run(chain(sparsity), calibrated(tiny_checkpoint()), store=store))
    return path


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def birdbone(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="birdbone")


def document(*args: object) -> Any:
    result = birdbone(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def model(folder: Path, step: int) -> Checkpoint:
    journal = Journal(folder)
    return journal.checkpoint(journal.step(step))


def test_log_lists_every_step(folder: Path) -> None:
    found = document("log", folder)
    assert [(each["number"], each["link"]) for each in found["steps"]] == list(
        enumerate(["profile", "score", "prune", "heal", "quantize", "prune", "heal", "quantize"], 1)
    )
    assert [each["in_last_run"] for each in found["steps"]] == [
        True, True, False, False, False, True, True, True,
    ]  # fmt: skip
    assert found["steps"][2]["settings"]["sparsity"] == 0.5
    assert found["steps"][2]["added"] == ["checkpoint", "plan"]
    assert found["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    shown = birdbone("log", folder)
    assert shown.exit_code == 0
    assert "sparsity=0.25" in shown.stdout
    assert "batch_size" not in shown.stdout
    assert shown.stdout.count("another run") == 3


def test_log_tells_what_was_reverted(folder: Path) -> None:
    kept = [each["metrics"]["kept"] for each in document("log", folder)["steps"][3::3]]
    shown = birdbone("log", folder).stdout
    assert ("reverted" in shown) == (not kept[-1])
    assert ("kept " in shown) or not any(kept)


def test_a_step_is_exported_with_its_masks(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "prune"
    assert document("log", folder, "--export", 3, "--out", out)["files"] == [
        "masks.safetensors", "plan.json", "step.json",
    ]  # fmt: skip
    plan = json.loads((out / "plan.json").read_text())
    masks = load_file(out / "masks.safetensors")
    name = "model.layers.1.mlp.up_proj"
    zeros = 1 - float(masks[f"{name}.weight"].float().mean())
    assert zeros == pytest.approx(plan["linears"][name]["sparsity"])
    assert masks[f"{name}.weight"].equal(model(folder, 3).tensors[f"{name}.weight"] != 0)


def test_tensors_are_exported_under_their_path(folder: Path, tmp_path: Path) -> None:
    birdbone("log", folder, "--export", 1, "--out", tmp_path / "profile")
    tensors = load_file(tmp_path / "profile" / "profile.safetensors")
    assert tensors["linears.model.layers.0.mlp.up_proj.second_moment"].shape == (32,)
    told = json.loads((tmp_path / "profile" / "profile.json").read_text())
    linear = told["linears"]["model.layers.0.mlp.up_proj"]
    assert linear["second_moment"] == {"dtype": "float32", "shape": [32]}
    assert linear["shape"] == [64, 32]


def test_an_export_takes_a_new_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    result = birdbone("log", folder, "--export", 1, "--out", tmp_path)
    assert (result.exit_code, "exists already; give the path of a new folder" in result.stderr) == (
        1,
        True,
    )
    assert "--export needs --out" in birdbone("log", folder, "--export", 1).stderr
    assert "give --export STEP" in birdbone("log", folder, "--out", tmp_path).stderr


def test_diff_says_what_changed_and_by_how_much(folder: Path) -> None:
    found = document("diff", f"{folder}:3", f"{folder}:5")
    before, after = model(folder, 3), model(folder, 5)
    changed = {each["name"]: each for each in found["changed"]}
    assert len(changed) == 21
    assert found["num_same"] == len(before.refs) - 21
    name = "model.layers.1.mlp.up_proj.weight"
    first, second = before.tensors[name], after.tensors[name]
    each = changed[name]
    assert each["relative"] == pytest.approx(float((second - first).norm() / first.norm()))
    assert each["greatest"] == pytest.approx(float((second - first).abs().max()))
    assert each["zeros"][0] == pytest.approx(0.5)
    assert each["kinds"] == ["float32", "int4"]
    assert each["shapes"] == [[64, 32], [64, 32]]
    assert found["num_bytes"] == [before.num_bytes, after.num_bytes]
    shown = birdbone("diff", f"{folder}:3", f"{folder}:5").stdout
    assert "model.layers.*.mlp.up_proj.weight (3)" in shown
    assert "  64 × 32, float32 → int4, zeros 5" in shown
    assert "changed by " in shown
    assert name in birdbone("diff", f"{folder}:3", f"{folder}:5", "--all").stdout


def test_diff_of_folders_tells_shapes_and_config(tmp_path: Path) -> None:
    from tiny import tiny_model

    for name, more in (("a", {}), ("b", {"intermediate_size": 48, "num_hidden_layers": 2})):
        tiny_model(**more).save_pretrained(tmp_path / name)
    found = document("diff", tmp_path / "a", tmp_path / "b")
    assert found["config"]["intermediate_size"] == [64, 48]
    assert "model.layers.2.mlp.up_proj.weight" in found["removed"]
    shapes = {each["name"]: each["shapes"] for each in found["changed"]}
    assert shapes["model.layers.0.mlp.up_proj.weight"] == [[64, 32], [48, 32]]
    shown = birdbone("diff", tmp_path / "a", tmp_path / "b").stdout
    assert "64 × 32 → 48 × 32" in shown
    assert "tensors removed: model.layers.*.input_layernorm.weight" in shown
    assert "intermediate_size" in shown


def test_revert_writes_that_steps_model(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = document("revert", folder, 3, "--out", out)
    assert found["step"] == 3
    opened = open_checkpoint(find_model(str(out)))
    assert digests(opened) == digests(model(folder, 3))
    AutoModelForCausalLM.from_pretrained(out)
    record = json.loads((out / "birdbone.json").read_text())
    assert [step["link"] for step in record["steps"]] == ["profile", "score", "prune"]
    assert record["checkpoint"] == found["checkpoint"]
    assert "after step 6 (prune), not evaluated" in " ".join(
        birdbone("revert", folder, 6, "--out", out).stdout.split()
    )
    assert [step["settings"].get("sparsity") for step in _steps(out)] == [None, None, 0.25]


def _steps(out: Path) -> Any:
    return json.loads((out / "birdbone.json").read_text())["steps"]


def test_revert_replaces_no_folder_of_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    result = birdbone("revert", folder, 3, "--out", tmp_path)
    assert result.exit_code == 1
    assert "was not made by birdbone" in result.stderr


def test_diff_takes_weights_as_they_are_stored(tmp_path: Path) -> None:
    """Reading quantised weights as float32 is no change of the dtype of anything."""
    dense = as_dtype(gguf_checkpoint(hidden_size=64), torch.bfloat16)
    written(dense, tmp_path / "dense")
    written(quantized(dense), tmp_path / "int4")
    written(for_bitsandbytes(dense, "nf4"), tmp_path / "nf4")
    write_gguf(dense, tmp_path / "light.gguf", kind="bf16")
    for name, kind in (("int4", "int4"), ("nf4", "bitsandbytes")):
        found = document("diff", tmp_path / "dense", tmp_path / name)
        assert "dtype" not in found["config"]
        assert {tuple(each["kinds"]) for each in found["changed"]} == {("bfloat16", kind)}
        assert found["num_same"] == len(dense.refs) - 21
        assert found["num_bytes"][1] < found["num_bytes"][0]
    same = document("diff", tmp_path / "dense", tmp_path / "light.gguf")
    assert same["changed"] == []
    assert same["config"].keys().isdisjoint({"dtype", "_model_name_or_path"})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["log", "{tmp}"], "is not a run folder; give the folder that was passed to run as --run"),
        (["log", "{run}", "--export", "99", "--out", "{tmp}/x"], "has no step 99; it has 1, 2, 3"),
        (["diff", "{run}:99", "{run}:1"], "has no step 99"),
        (["diff", "{tmp}:1", "{run}:1"], "is not a run folder"),
        (["diff", "nowhere/at/all", "{run}:1"], "not found"),
        (["revert", "{run}", "99", "--out", "{tmp}/x"], "has no step 99"),
        (["gc", "{tmp}"], "is not a run folder"),
    ],
)
def test_what_is_not_there_is_said(
    args: list[str], words: str, folder: Path, tmp_path: Path
) -> None:
    result = birdbone(*(arg.format(run=folder, tmp=tmp_path) for arg in args))
    assert result.exit_code == 1, result.output
    assert words in " ".join(result.stderr.split())


def test_gc_frees_what_nothing_refers_to_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for sparsity in (0.5, 0.25):
        with RunFolder(path) as store:
            asyncio.run(run(chain(sparsity), calibrated(tiny_checkpoint()), store=store))
    (path / "objects" / "00").mkdir(exist_ok=True)
    for name in ("objects/00/left.part", f"files/{'0' * 64}", "abandoned.part"):
        (path / name).write_bytes(b"left")
    abandoned = path / "unfinished" / ("0" * 64)
    abandoned.mkdir(parents=True)
    (abandoned / "progress.json").write_bytes(b"left")
    before = document("log", path)["bytes"]
    dry = document("gc", path, "--dry-run")
    assert (dry["files"], dry["freed_bytes"], dry["steps"]) == (4, 16, [])
    assert document("log", path)["bytes"] == before
    assert document("gc", path) == dry
    assert document("log", path)["bytes"] == before - 16
    assert not abandoned.exists()
    everything = {step: digests(model(path, step)) for step in (3, 4, 5, 6, 7, 8)}
    freed = document("gc", path, "--superseded")
    assert freed["steps"] == [3, 4, 5]
    assert freed["freed_bytes"] > 0
    assert document("log", path)["bytes"] == freed["kept_bytes"]
    assert {step: digests(model(path, step)) for step in (6, 7, 8)} == {
        step: everything[step] for step in (6, 7, 8)
    }
    told: list[str] = []
    with RunFolder(path, tell=told.append) as store:
        asyncio.run(run(chain(0.25), calibrated(tiny_checkpoint()), store=store))
    assert told == []
    assert "freed 0 bytes in 0 files" in birdbone("gc", path).stdout


def test_gc_keeps_the_work_a_stopped_run_will_go_on_from(tmp_path: Path) -> None:
    @link
    async def climb(ctx: Empty) -> dict[str, Any]:
        unfinished().save({}, {"step": 1})
        raise KeyboardInterrupt

    with RunFolder(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        asyncio.run(run(climb(), store=store))
    assert document("gc", tmp_path)["files"] == 0
    assert document("log", tmp_path)["in_progress"] == 1
    assert "1 links were interrupted" in birdbone("log", tmp_path).stdout


def test_gc_waits_for_no_run(folder: Path) -> None:
    with RunFolder(folder):
        result = birdbone("gc", folder)
    assert result.exit_code == 1
    assert "is in use by process" in result.stderr
