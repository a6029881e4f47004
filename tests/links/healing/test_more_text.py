import warnings
from typing import Any

import pytest
import torch
from interrupting import Place, stop_healing_at
from tiny import tiny_checkpoint, tiny_windows

from birdbone.checkpoints import InMemory, TensorRef
from birdbone.engine import run
from birdbone.errors import LinkError
from birdbone.journal.folder import RunFolder
from birdbone.links.heal import heal
from birdbone.links.healing import more_text
from birdbone.links.healing import train as healers
from birdbone.links.healing.budget import Budget
from birdbone.links.healing.more_text import healing_text
from birdbone.links.healing.settings import HealSettings
from birdbone.models.passes.resuming import TensorPlace


@pytest.fixture
def ctx() -> Any:
    """A damaged model and its original, with a tokenizer to sample it by."""
    dense = tiny_checkpoint()
    damaged = {
        name: tensor.masked_fill(tensor.abs() < tensor.abs().median(), 0.0)
        for name, tensor in dense.tensors.items()
        if "_proj" in name
    }
    texts = {
        key: tiny_windows(4, 16, seed=seed, text=key)
        for seed, key in enumerate(("calibration", "healing", "heldout", "elsewhere"))
    }
    return {"checkpoint": dense.evolve(damaged), "dense": dense, **texts}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of 8 documents; the number of tokens asked for, each time."""
    asked: list[int] = []
    sample = more_text.sample_text

    def counted(checkpoint: Any, tokenizer: Any, num_tokens: int, **more: Any) -> Any:
        asked.append(num_tokens)
        return sample(checkpoint, tokenizer, num_tokens, batch_size=8, **more)

    monkeypatch.setattr(more_text, "sample_text", counted)
    return asked


def test_without_tokens_or_time_the_windows_are_those_of_calibrate(ctx: Any) -> None:
    place = Place()
    found = healing_text(ctx, HealSettings(), 1, place)
    assert found.windows is ctx["healing"]
    assert found.place is place
    assert not found.metrics


def test_sampled_windows_come_first_and_those_that_judge_last(ctx: Any) -> None:
    found = healing_text(ctx, HealSettings(tokens=16 * 12), 1, Place())
    assert found.windows.num_windows == 12
    assert torch.equal(found.windows.tokens[-4:], ctx["healing"].tokens)
    assert found.metrics == {"sampled_windows": 8, "healing_windows": 12}
    assert len(set(map(tuple, found.windows.tokens.tolist()))) == 12


def test_the_seed_decides_and_it_is_other_text_than_that_of_calibrate(ctx: Any) -> None:
    first, again, other = (
        healing_text(ctx, HealSettings(tokens=16 * 12, seed=seed), 1, Place()).windows.digest
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_window_copied_from_a_text_that_judges_is_left_out(ctx: Any) -> None:
    first = healing_text(ctx, HealSettings(tokens=16 * 12), 1, Place()).windows
    ctx["elsewhere"] = type(first)(first.tokens[2:4], "elsewhere")
    found = healing_text(ctx, HealSettings(tokens=16 * 12), 1, Place()).windows
    rows = set(map(tuple, found.tokens.tolist()))
    assert found.num_windows == 12
    assert not rows & set(map(tuple, ctx["elsewhere"].tokens.tolist()))


def test_what_was_decided_and_sampled_is_kept(
    ctx: Any, small_batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(more_text, "decide", lambda *rest: Budget(6, 100.0, 0.5))
    place, settings = Place(), HealSettings(time="1h")
    first = healing_text(ctx, settings, 1, place)
    assert first.metrics == {
        "sampled_windows": 6,
        "healing_windows": 10,
        "tokens_sampled_per_second": 100.0,
        "expected_seconds_per_window": 0.5,
    }
    first.place.save({"weight": torch.ones(2)}, {"steps": 3})
    small_batches.clear()
    monkeypatch.setattr(more_text, "decide", lambda *rest: Budget(1))
    again = healing_text(ctx, settings, 1, place)
    assert not small_batches
    assert again.metrics == first.metrics
    assert again.windows.digest == first.windows.digest
    kept = again.place.load()
    assert kept is not None
    assert list(kept[0]) == ["weight"]
    assert kept[1] == {"steps": 3}


class TakesTensors(Place):
    """A place that also takes single tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[TensorRef] = []

    def keep(self, ref: TensorRef) -> TensorRef:
        self.taken.append(ref)
        return ref


def test_its_place_takes_single_tensors_if_that_of_the_link_does(ctx: Any) -> None:
    place, ref = TakesTensors(), InMemory(torch.ones(2))
    found = healing_text(ctx, HealSettings(tokens=16 * 6), 1, place).place
    assert isinstance(found, TensorPlace)
    assert found.keep(ref) is ref
    assert place.taken == [ref]
    plain = healing_text(ctx, HealSettings(tokens=16 * 6), 1, Place()).place
    assert not isinstance(plain, TensorPlace)


def test_the_batch_that_was_timed_is_not_sampled_again(
    ctx: Any, small_batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(ctx: Any, settings: Any, heldout: int, sample: Any) -> Budget:
        assert sample() > 16
        return Budget(1, 1.0, 1.0)

    monkeypatch.setattr(more_text, "decide", decide)
    place = Place()
    healing_text(ctx, HealSettings(time="1h"), 1, place)
    assert small_batches == [1, 18]


def test_too_little_time_is_warned_of(ctx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(more_text, "decide", lambda *rest: Budget(0, 1.0, 1.0))
    with pytest.warns(UserWarning, match=r"heal\(time='1s'\) leaves no time .* give more time"):
        found = healing_text(ctx, HealSettings(time="1s"), 1, Place())
    assert torch.equal(found.windows.tokens, ctx["healing"].tokens)


@pytest.mark.parametrize("method", ["blocks", "full"])
async def test_it_heals_on_sampled_text_and_goes_on_where_it_was_stopped(
    method: Any, ctx: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, small_batches: list[int]
) -> None:
    link = heal(method=method, epochs=1, tokens=16 * 40, learning_rate=1e-3)
    whole = await run(link, ctx)
    metrics = whole["history"][-1].metrics
    assert metrics["sampled_windows"] == 36
    assert metrics["steps"] >= 39
    heard: list[int] = []
    monkeypatch.setattr(healers, "announce", stop_healing_at(2, heard))
    with RunFolder(tmp_path / "run") as folder, pytest.raises(LinkError):
        await run(link, ctx, store=folder)
    small_batches.clear()
    with RunFolder(tmp_path / "run") as folder:
        again = await run(link, ctx, store=folder)
    assert not small_batches
    assert again["checkpoint"].id == whole["checkpoint"].id
    assert again["history"][-1].metrics == metrics


async def test_healing_by_time_ends(ctx: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a busy machine may have no time left to sample in
        after = await run(heal(time="5s", epochs=1), ctx)
    assert after["history"][-1].metrics["tokens_sampled_per_second"] > 0
