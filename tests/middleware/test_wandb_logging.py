from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

import modulink
import pytest

from birdbone.contexts.cost import Cost
from birdbone.contexts.flow import Empty
from birdbone.contexts.saved import Saved
from birdbone.contexts.steps import Step
from birdbone.engine import Chain, announce, link, run
from birdbone.errors import LinkError, ResourceError, SettingError
from birdbone.middleware import GpuMemory, WandbLogging


@pytest.fixture
def make(tmp_path, quiet_wandb):
    def make(**settings):
        return WandbLogging(project="light", mode="offline", directory=tmp_path / "w", **settings)

    return make


def columns(files, key):
    return [step[key] for step in files.history if key in step]


async def test_a_run_is_written_with_settings_metrics_cost_and_figures(
    links, make, read_wandb, tmp_path
):
    chain = Chain(links.add(amount=2), links.plain, links.add(amount=3), links.publish())
    chain.use(make(name="first", config={"note": "trial"}))
    result = await run(chain)
    (found,) = read_wandb()
    assert found.run == {"project": "light", "name": "first", "host": "[redacted]"}
    assert found.config["note"] == "trial"
    assert found.config["add"] == {"amount": 2, "hub_token": "[redacted]"}
    assert found.config["add-2"]["amount"] == 3
    assert "publish" not in found.config
    assert columns(found, "add/tally") == [2, 5]
    assert columns(found, "add/word") == ["done", "done"]
    assert columns(found, "add/absent") == []
    costs = [step.cost for step in result["history"] if step.link == "add"]
    assert columns(found, "add/seconds") == [cost.seconds for cost in costs]
    assert columns(found, "add/peak_bytes") == [cost.peak_bytes for cost in costs]
    assert len(columns(found, "plain/seconds")) == 1
    assert found.exit_code == 0
    assert found.summary["dense/perplexity"] == 10.0
    assert found.summary["light/bytes"] == 1.0
    assert columns(found, "figures/nrows") == [2]
    (path,) = tmp_path.rglob("figures*.table.json")
    written = json.loads(path.read_text())
    assert written["columns"] == ["figure", "dense", "light"]
    assert written["data"] == [["bytes", 4.0, 1.0], ["perplexity", 10.0, None]]


async def test_what_was_measured_again_and_again_is_a_curve(make, read_wandb):
    @link
    async def train(ctx: Empty) -> Empty:
        return {"metrics": {"loss": [3.0, 2.0, 1.5], "steps": 3}}

    chain = Chain(train())
    chain.use(make())
    await run(chain)
    (found,) = read_wandb()
    assert columns(found, "train/loss") == [3.0, 2.0, 1.5]
    assert columns(found, "train/loss/place") == [0, 1, 2]
    assert columns(found, "train/steps") == [3]
    assert "metric" in found.kinds  # drawn over its own count, not over that of the links


async def test_no_secret_and_nothing_of_the_machine_is_written(
    links, make, read_wandb, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["birdbone", "--set", "load.hub_token=open-sesame"])
    chain = Chain(links.add(hub_token="open-sesame"), links.broken)
    chain.use(make(config={"api_key": "open-sesame", "nested": {"password": "open-sesame"}}))
    with pytest.raises(LinkError):
        await run(chain)
    (found,) = read_wandb()
    assert found.config["api_key"] == "[redacted]"
    assert b"sesame" not in found.raw
    assert b"hf_abcdef" not in found.raw
    assert not found.kinds & {"environment", "stats", "output", "output_raw", "files"}


async def test_a_failed_run_ends_with_code_1_and_the_error(links, make, read_wandb):
    chain = Chain(links.add(), links.broken, links.publish())
    chain.use(make())
    with pytest.raises(LinkError):
        await run(chain)
    (found,) = read_wandb()
    assert found.exit_code == 1
    assert found.summary["error"] == "link 'broken' failed: ValueError: no entry with [redacted]"
    assert found.summary["broken/error"] == "no entry with [redacted]"
    assert columns(found, "add/tally") == [1]


async def test_a_link_refused_before_the_run_was_open_is_recorded_too(links, make, read_wandb):
    chain = Chain(links.large(num_bytes=2**60))
    chain.use(GpuMemory(write=lambda line: None))
    chain.use(make())
    with pytest.raises(LinkError):
        await run(chain)
    (found,) = read_wandb()
    assert found.exit_code == 1
    assert "needs 1152921504606846976 bytes" in found.summary["error"]


async def test_a_failure_that_a_route_mends_does_not_fail_the_run(links, make, read_wandb):
    chain = Chain(links.broken, links.add())
    chain.connect(links.broken, links.plain, lambda ctx: True)
    chain.use(make())
    await run(chain)
    (found,) = read_wandb()
    assert found.exit_code == 0
    assert "error" not in found.summary
    assert found.summary["broken/error"] == "no entry with [redacted]"


async def test_two_runs_at_once_write_two_runs(links, make, read_wandb):
    chain = Chain(links.add(amount=2), links.add())
    chain.use(make())
    await asyncio.gather(run(chain), run(chain, {"tally": 10}))
    found = [columns(each, "add/tally") for each in read_wandb()]
    assert sorted(found) == [[2, 3], [12, 13]]


async def test_a_run_the_process_already_has_is_left_alone(links, make, read_wandb, tmp_path):
    import wandb

    theirs = wandb.init(project="theirs", mode="offline", dir=tmp_path / "w", name="theirs")
    chain = Chain(links.add())
    chain.use(make(name="ours"))
    await run(chain)
    assert wandb.run is theirs
    theirs.log({"loss": 1})
    theirs.finish()
    found = {each.run["name"]: each for each in read_wandb()}
    assert columns(found["theirs"], "loss") == [1]
    assert columns(found["theirs"], "add/tally") == []
    assert columns(found["ours"], "add/tally") == [1]


async def test_inner_links_are_logged_and_figures_once(links, make, read_wandb):
    chain = Chain(Chain(links.add(), links.publish(), name="wave"), links.add())
    chain.use(make())
    await run(chain)
    (found,) = read_wandb()
    assert columns(found, "add/tally") == [1, 2]
    assert len(columns(found, "wave/seconds")) == 1
    assert columns(found, "wave/tally") == []
    assert columns(found, "figures/nrows") == [2]


async def test_figures_found_in_the_first_context_are_not_this_runs(links, make, read_wandb):
    before = await run(Chain(links.publish()))
    chain = Chain(links.add())
    chain.use(make())
    await run(chain, before)
    (found,) = read_wandb()
    assert columns(found, "figures/nrows") == []


@pytest.mark.parametrize(("last", "exit_code"), [("plain", 0), ("broken", 1)])
async def test_under_modulink_the_run_closes_with_its_notes(
    links, make, read_wandb, last, exit_code
):
    chain = modulink.Chain(links.add(amount=2), getattr(links, last))
    chain.use(make())
    result = await chain.run(modulink.Context())
    assert result["tally"] == 2
    result.clear()
    (found,) = read_wandb()
    assert columns(found, "add/tally") == [2]
    assert found.exit_code == exit_code


async def test_w_and_b_refusing_stops_the_run_before_its_first_link(links, make, monkeypatch):
    import wandb

    asked, started = [], []

    def refuse(**settings):
        asked.append(settings["project"])
        raise wandb.errors.UsageError("no API key")

    monkeypatch.setattr(wandb, "init", refuse)

    async def first(ctx):
        started.append(ctx)
        return ctx

    chain = Chain(first)
    chain.use(make())
    with pytest.raises(LinkError, match="no API key; log in with `wandb login`, or") as caught:
        await run(chain)
    assert asked == ["light"]
    assert isinstance(caught.value.__cause__, ResourceError)
    assert not started


def test_an_unknown_mode_is_refused():
    with pytest.raises(SettingError, match="no mode 'ofline'; did you mean 'offline'"):
        WandbLogging(project="light", mode="ofline")


async def test_the_loss_is_logged_while_a_link_trains_and_goes_on_when_it_runs_again(
    make, read_wandb
):
    @link
    async def train(ctx: Empty) -> Empty:
        for step, loss in enumerate((3.0, 2.0), 1):
            announce("healing", step, 2, loss)
        return {"metrics": {"heldout_loss": [1.5]}}

    chain = Chain(train(), train())
    chain.use(make())
    await run(chain)
    (found,) = read_wandb()
    assert columns(found, "train/loss") == [3.0, 2.0, 3.0, 2.0]
    assert columns(found, "train/loss/place") == [0, 1, 2, 3]
    assert columns(found, "train/heldout_loss/place") == [0, 1]
    with_loss = [step["train/run"] for step in found.history if "train/loss" in step]
    assert with_loss == [1, 1, 2, 2]


async def test_all_that_was_tried_is_one_table(make, read_wandb, tmp_path):
    def tried(name: str, metrics: dict[str, object]) -> Step:
        return Step(name, {}, Cost(2.5, None, "process"), metrics, within="search")

    @link
    async def search(ctx: Empty) -> Empty:
        wave = tried("wave", {"wave": 1, "kept": True, "bytes": 7, "rise": 0.1})
        other = tried("candidate", {"candidate": "int4", "predicted_bytes": 5, "kept": False})
        return {"history": (*ctx.get("history", ()), wave, other)}

    chain = Chain(search())
    chain.use(make())
    await run(chain)
    (found,) = read_wandb()
    assert columns(found, "tried/nrows") == [2]
    (path,) = tmp_path.rglob("tried*.table.json")
    written = json.loads(path.read_text())
    rows = [dict(zip(written["columns"], row, strict=True)) for row in written["data"]]
    assert [row["name"] for row in rows] == ["wave 1", "int4"]
    assert [row["bytes"] for row in rows] == [7, 5]
    assert [row["kept"] for row in rows] == [True, False]
    assert rows[0]["rise"] == 0.1
    assert rows[1]["seconds"] == 2.5


@pytest.mark.parametrize("model_files", [False, True])
async def test_a_saved_model_is_a_page_and_an_artifact(
    make, read_wandb, tmp_path, model_files: bool
):
    folder = tmp_path / "light"
    folder.mkdir()
    for name in ("README.md", "birdbone.json", "proof.json", "model.safetensors"):
        (folder / name).write_text(name)
    (folder / "report.html").write_text("<p>A page.</p>")

    @link
    async def publish(ctx: Empty) -> Empty:
        return {"saved": Saved(folder, 5, {"light": {"rise": 0.25}}, {})}

    chain = Chain(publish())
    chain.use(make(tags=("small", "trial"), model_files=model_files))
    await run(chain, {"dense": SimpleNamespace(source="someone/a-model")})
    (found,) = read_wandb()
    assert sorted(found.tags) == ["small", "trial"]
    (panel,) = (tmp_path / "w").rglob("report*.html")
    assert panel.read_text() == "<p>A page.</p>"
    (artifact,) = (each for each in found.artifacts if each.type == "model")
    assert artifact.name == "light"
    assert json.loads(artifact.metadata) == {"source": "someone/a-model", "rise": 0.25}
    names = {each.path for each in artifact.manifest.contents}
    records = {"README.md", "birdbone.json", "proof.json", "report.html"}
    assert names == records | ({"model.safetensors"} if model_files else set())
