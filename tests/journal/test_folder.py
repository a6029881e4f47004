"""The run folder: what is replayed, what runs again and why, what is refused, what is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated, digests
from torch import Tensor

from birdbone.checkpoints import Checkpoint, ranks
from birdbone.contexts.flow import Empty
from birdbone.engine import Chain, link, run, unfinished
from birdbone.errors import LinkError, ResourceError, RunFolderError
from birdbone.journal import Journal, RunFolder, keys, storable
from birdbone.links import profile, prune, quantize, score


class Seeded(TypedDict):
    seed: int
    extra: NotRequired[Any]


class Sized(TypedDict):
    size: Any


ran: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    ran.clear()


@link
async def grow(ctx: Seeded, *, by: int = 1) -> Sized:
    ran.append("grow")
    return {"size": ctx["seed"] + by}


class Lines(list[str]):
    """What a run folder told."""

    def __call__(self, line: str) -> None:
        self.append(line)


async def kept(folder: Path, chain: Any, ctx: Mapping[str, Any] | None = None) -> Any:
    """One run with the folder, and what the folder told."""
    lines = Lines()
    with RunFolder(folder, tell=lines) as store:
        return await run(chain, ctx, store=store), lines


def thinning() -> Chain:
    return Chain(profile(), score(), prune(sparsity=0.5), quantize(group_size=32))


async def test_a_run_replays_what_is_kept_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    ctx = calibrated(tiny_checkpoint())
    plain = await run(thinning(), ctx)
    first, _ = await kept(tmp_path / "run", thinning(), ctx)
    again, lines = await kept(tmp_path / "run", thinning(), ctx)
    assert lines == []
    assert again["history"] == first["history"]
    assert again["checkpoint"].id == first["checkpoint"].id == plain["checkpoint"].id
    assert digests(again["checkpoint"]) == digests(plain["checkpoint"])
    assert again["plan"] == plain["plan"]
    assert list(again["plan"].linears) == list(plain["plan"].linears)
    assert again["scores"] == plain["scores"]
    for name, seen in plain["profile"].linears.items():
        torch.testing.assert_close(
            again["profile"].linears[name].second_moment, seen.second_moment, rtol=0, atol=0
        )


async def test_unchanged_tensors_are_stored_once(tmp_path: Path) -> None:
    await kept(tmp_path / "run", thinning(), calibrated(tiny_checkpoint()))
    journal = Journal(tmp_path / "run")
    pruned, light = (journal.checkpoint(each) for each in journal.steps()[2:])
    shared = {ref.digest for ref in pruned.refs.values()} & {r.digest for r in light.refs.values()}
    assert shared
    objects = [path.stem for path in (tmp_path / "run/objects").glob("*/*")]
    assert len(objects) == len(set(objects))


async def test_a_changed_setting_runs_again_from_there_and_is_named(tmp_path: Path) -> None:
    ctx = calibrated(tiny_checkpoint())
    await kept(tmp_path, thinning(), ctx)
    other = Chain(profile(), score(), prune(sparsity=0.25), quantize(group_size=32))
    _, lines = await kept(tmp_path, other, ctx)
    assert lines == ["prune runs again: its setting sparsity is 0.25, was 0.5"]
    assert [each.step.link for each in Journal(tmp_path).steps()] == [
        "profile", "score", "prune", "quantize", "prune", "quantize",
    ]  # fmt: skip
    _, lines = await kept(tmp_path, thinning(), ctx)
    assert lines == []


async def test_another_model_and_another_text_are_named(tmp_path: Path) -> None:
    ctx = calibrated(tiny_checkpoint())
    chain = Chain(profile(), score())
    await kept(tmp_path, chain, ctx)
    _, lines = await kept(tmp_path, chain, {**ctx, "calibration": tiny_windows(seed=9)})
    assert lines == ["profile runs again: the calibration it reads has changed"]
    _, lines = await kept(tmp_path, chain, {**ctx, "checkpoint": tiny_checkpoint(seed=3)})
    assert lines[0].startswith("profile runs again: the ca")


async def test_another_version_and_other_code_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept(tmp_path, grow(), {"seed": 1})
    monkeypatch.setattr(keys, "_versions", lambda: {"birdbone": "0", "torch": "99"})
    _, lines = await kept(tmp_path, grow(), {"seed": 1})
    assert lines[0].startswith("grow runs again: birdbone is 0, was ")
    monkeypatch.setattr(keys, "_own_code", lambda: "other")
    _, lines = await kept(tmp_path, grow(), {"seed": 1})
    assert lines == ["grow runs again: its code, or birdbone's, has changed"]
    assert ran == ["grow"] * 3


async def test_files_read_beside_the_context_count_by_their_content(tmp_path: Path) -> None:
    source = tmp_path / "text"

    @link
    async def reads(ctx: Empty, *, path: str) -> Sized:
        ran.append("reads")
        return {"size": len(source.read_text())}

    @reads.reads
    def outside(settings: Any) -> Mapping[str, str]:
        return {"text": Path(settings.path).read_text()}

    source.write_text("one")
    for _ in range(2):
        await kept(tmp_path / "run", reads(path=str(source)))
    assert ran == ["reads"]
    source.write_text("two and more")
    result, lines = await kept(tmp_path / "run", reads(path=str(source)))
    assert (result["size"], lines) == (12, ["reads runs again: text has changed"])


async def test_a_link_whose_effect_is_gone_runs_again(tmp_path: Path) -> None:
    target = tmp_path / "effect"

    @link
    async def writes(ctx: Empty) -> Sized:
        ran.append("writes")
        target.write_text("there")
        return {"size": 1}

    @writes.intact
    def there(ctx: Mapping[str, Any], added: Mapping[str, Any]) -> bool:
        return target.exists() and target.read_text() == "there"

    for _ in range(2):
        await kept(tmp_path / "run", writes())
    assert ran == ["writes"]
    target.write_text("changed")
    _, lines = await kept(tmp_path / "run", writes())
    assert lines == ["writes runs again: the files it wrote are gone or were changed"]
    assert target.read_text() == "there"


@storable
@dataclass(frozen=True)
class Found:
    name: str
    values: Tensor
    parts: tuple[float, ...]
    where: Path | None = None


async def test_every_kind_of_value_comes_back_as_it_was(tmp_path: Path) -> None:
    found = Found("a", torch.arange(3, dtype=torch.bfloat16), (1.5, float("inf")), Path("there"))
    value = {"list": [1, None, True], 3: ("x", -0.0), "found": found, "nan": float("nan")}

    @link
    async def make(ctx: Empty) -> Sized:
        ran.append("make")
        return {"size": value}

    for _ in range(2):
        result, _ = await kept(tmp_path, make())
        got = result["size"]
        assert str(got.pop("nan")) == "nan"
        assert got.pop("found").values.equal(found.values)
        assert repr(got) == "{'list': [1, None, True], 3: ('x', -0.0)}"
    assert ran == ["make"]


async def test_a_declared_value_that_cannot_be_kept_is_refused_by_key(tmp_path: Path) -> None:
    @link
    async def make(ctx: Empty) -> Sized:
        return {"size": {"a": [object()]}}

    with pytest.raises(LinkError, match=r"make .* key 'size' .*\['a'\]\[0\] is a object; use"):
        await kept(tmp_path, make())
    with pytest.raises(LinkError, match=r"grow .* key 'extra' cannot be stored, it is a socket"):
        await kept(tmp_path, grow(), {"seed": 1, "extra": type("socket", (), {})()})
    assert Journal(tmp_path).steps() == []


async def test_what_a_link_does_not_declare_to_read_may_be_anything(tmp_path: Path) -> None:
    for other in (object(), object()):
        await kept(tmp_path, grow(), {"seed": 1, "app": other})
    assert ran == ["grow"]


async def test_an_undeclared_value_that_cannot_be_kept_makes_its_link_run_each_time(
    tmp_path: Path,
) -> None:
    @link
    async def opens(ctx: Mapping[str, Any]) -> Mapping[str, Any]:
        ran.append("opens")
        return {**ctx, "handle": object()}

    for _ in range(2):
        result, lines = await kept(tmp_path, Chain(opens(), grow()), {"seed": 1})
        assert lines == [
            "opens cannot be stored and runs each time: context key 'handle': it is a object"
        ]
        assert result["size"] == 2
    assert ran == ["opens", "grow", "opens"]
    _, lines = await kept(tmp_path, opens(), {"seed": 1, "handle": object()})
    assert lines == [
        "opens cannot be stored and runs each time: context key 'handle': it is a object"
    ]


async def test_a_link_with_a_chain_among_its_settings_is_known_by_all_of_it(
    tmp_path: Path,
) -> None:
    @link
    async def twice(ctx: Mapping[str, Any], *, body: Any) -> Mapping[str, Any]:
        ran.append("twice")
        await body.run(ctx)
        return await body.run(ctx)

    for _ in range(2):
        await kept(tmp_path, twice(body=Chain(grow(by=2))), {"seed": 1})
    assert ran == ["twice", "grow"]
    result, _ = await kept(tmp_path, twice(body=Chain(grow(by=3))), {"seed": 1})
    assert ran == ["twice", "grow", "twice", "grow"]
    assert result["size"] == 4
    assert [step.settings for step in result["history"]][-1] == {"body": [{"grow": {"by": 3}}]}


async def test_work_in_progress_survives_a_failure_and_goes_with_the_outcome(
    tmp_path: Path,
) -> None:
    begun = []

    @link
    async def climb(ctx: Seeded) -> Sized:
        place = unfinished()
        found = place.load()
        begun.append(found and (found[0]["held"].tolist(), found[1]))
        place.save({"held": torch.ones(2), "gone": torch.zeros(1)}, {"step": 1})
        place.save({"held": torch.ones(2)}, {"step": 2, "loss": 0.25})
        if len(begun) == 1:
            raise ResourceError("enough")
        return {"size": 1}

    with pytest.raises(LinkError, match="enough"):
        await kept(tmp_path, climb(), {"seed": 1})
    (place,) = (tmp_path / "unfinished").iterdir()
    assert len(list(place.glob("objects/*/*"))) == 1
    await kept(tmp_path, climb(), {"seed": 1})
    assert begun == [None, ([1.0, 1.0], {"step": 2, "loss": 0.25})]
    assert not place.exists()


async def test_damaged_work_in_progress_begins_anew(tmp_path: Path) -> None:
    seen = []

    @link
    async def climb(ctx: Seeded) -> Sized:
        seen.append(unfinished().load())
        unfinished().save({"held": torch.ones(8)}, {})
        if len(seen) == 1:
            raise ResourceError("enough")
        return {"size": 1}

    with pytest.raises(LinkError):
        await kept(tmp_path, climb(), {"seed": 1})
    (path,) = (tmp_path / "unfinished").glob("*/objects/*/*")
    flip(path)
    _, lines = await kept(tmp_path, climb(), {"seed": 1})
    assert seen == [None, None]
    assert "work in progress is damaged and starts over" in lines[0]
    assert path.name in lines[0]


async def test_facts_must_be_json(tmp_path: Path) -> None:
    @link
    async def climb(ctx: Seeded) -> Sized:
        unfinished().save({}, {"loss": float("nan")})
        return {"size": 1}

    with pytest.raises(LinkError, match="facts hold a value JSON cannot represent"):
        await kept(tmp_path, climb(), {"seed": 1})


def flip(path: Path) -> None:
    """Turn over the last bit of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def harm_all(folder: Path, kind: str, harm: Callable[[Path], None]) -> list[Path]:
    harmed = sorted(folder.glob(kind))
    for path in harmed:
        harm(path)
    return harmed


def set_back(folder: Path) -> None:
    """Make every file one of 1980."""
    for path in folder.rglob("*"):
        os.utime(path, (10**9 / 3, 10**9 / 3))


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink], ids=["flipped", "cut", "missing"])
@pytest.mark.parametrize("kind", ["objects/*/*", "manifests/*", "files/*", "outcomes/*"])
async def test_what_is_damaged_is_found_named_and_made_again(
    tmp_path: Path, kind: str, harm: Callable[[Path], None]
) -> None:
    ctx = calibrated(tiny_checkpoint())
    chain = Chain(profile(), score(), prune(sparsity=0.5))
    first, _ = await kept(tmp_path, chain, ctx)
    harmed = harm_all(tmp_path, kind, harm)
    again, lines = await kept(tmp_path, chain, ctx)
    assert digests(again["checkpoint"]) == digests(first["checkpoint"])
    if (harm, kind) != (Path.unlink, "outcomes/*"):
        assert any("runs again: " in line and str(tmp_path) in line for line in lines)
    assert all(path.exists() for path in harmed)
    _, lines = await kept(tmp_path, chain, ctx)
    assert lines == []


async def test_an_object_damaged_while_the_run_is_on_is_refused(tmp_path: Path) -> None:
    @link
    async def harms(ctx: Mapping[str, Any]) -> Mapping[str, Any]:
        checkpoint: Checkpoint = ctx["checkpoint"]
        for ref in checkpoint.refs.values():
            flip(tmp_path / f"objects/{ref.digest[:2]}/{ref.digest}.safetensors")
        return {}

    chain = Chain(profile(), score(), prune(sparsity=0.5), harms(), quantize(group_size=32))
    with pytest.raises(LinkError, match=r"quantize.*is damaged: its content does not match"):
        await kept(tmp_path, chain, calibrated(tiny_checkpoint()))


HOLD = """
import sys
from birdbone.journal import RunFolder
folder = RunFolder(sys.argv[1])
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid}; wait for it"):
            RunFolder(tmp_path)
        holder.kill()
    RunFolder(tmp_path).close()


def test_two_in_one_process_are_refused_too(tmp_path: Path) -> None:
    with RunFolder(tmp_path), pytest.raises(RunFolderError, match="is in use by process"):
        RunFolder(tmp_path)
    RunFolder(tmp_path).close()


def test_a_folder_of_something_else_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files and is not a run folder"):
        RunFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo"]
    with pytest.raises(RunFolderError, match=r"cannot be written .*give another"):
        RunFolder(tmp_path / "photo")
    with pytest.raises(RunFolderError, match=r"cannot be written .*give another"):
        RunFolder(tmp_path / "photo" / "below")
    with pytest.raises(RunFolderError, match="is not a run folder; give the folder that was"):
        Journal(tmp_path)


async def test_a_folder_that_vanishes_is_said_and_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    @link
    async def removes(ctx: Empty) -> Seeded:
        folder.rename(tmp_path / "elsewhere")
        return {"seed": 1}

    with pytest.raises(LinkError, match="was removed or replaced while it was in use"):
        await kept(folder, Chain(removes(), grow()))
    assert not folder.exists()
    assert ran == []


async def test_a_folder_that_takes_no_more_is_said(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as store:
        (tmp_path / "outcomes").write_text("in the way")
        with pytest.raises(LinkError, match=r"run folder .* cannot be written"):
            await run(grow(), {"seed": 1}, store=store)


async def test_no_clock_decides_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept(tmp_path, grow(), {"seed": 1})
    times = iter(range(10**9, 0, -1000))
    monkeypatch.setattr("time.time", lambda: next(times))
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    set_back(tmp_path)
    await kept(tmp_path, Chain(grow(), grow(by=2)), {"seed": 1})
    assert ran == ["grow", "grow"]
    assert [each.number for each in Journal(tmp_path).steps()] == [1, 2]


async def test_a_journal_is_read_while_a_run_holds_it(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as store:
        await run(Chain(grow(), grow(by=2)), {"seed": 1}, store=store)
        journal = Journal(tmp_path)
        assert [each.step.settings for each in journal.steps()] == [{"by": 1}, {"by": 2}]
        assert journal.value(journal.step(2), "size") == 3
        with pytest.raises(RunFolderError, match=r"step 1 \(grow\) added no 'plan'; it added size"):
            journal.value(journal.step(1), "plan")
        with pytest.raises(RunFolderError, match="has no step 7; it has 1, 2"):
            journal.step(7)
        with pytest.raises(RunFolderError, match="before a model is loaded"):
            journal.checkpoint(journal.step(1))


async def test_last_names_the_links_the_last_run_came_to(tmp_path: Path) -> None:
    await kept(tmp_path, Chain(grow(), grow(by=2)), {"seed": 1})
    await kept(tmp_path, grow(by=2), {"seed": 1})
    journal = Journal(tmp_path)
    assert [journal.read(key).number for key in journal.last()] == [2]


def test_a_record_must_be_a_frozen_dataclass() -> None:
    with pytest.raises(RunFolderError, match="Loose is not a frozen dataclass"):
        storable(type("Loose", (), {}))


def test_a_checkpoint_under_another_name_is_read_as_another() -> None:
    seen = keys.Fingerprints()
    checkpoint = tiny_checkpoint()
    assert seen.of(checkpoint) == seen.of(tiny_checkpoint())
    assert seen.of(checkpoint) != seen.of(replace(checkpoint, source="another"))
    assert json.loads(json.dumps(seen.of(checkpoint))) == seen.of(checkpoint)


def test_a_folder_that_a_rank_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks, "exchanged", lambda seen: [seen, False])
    with pytest.raises(RunFolderError, match=r"rank 1 does not see the run folder '.*' of rank 0"):
        RunFolder(tmp_path / "run")
    monkeypatch.undo()
    RunFolder(tmp_path / "run").close()  # was released
