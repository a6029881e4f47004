"""A pass over the blocks that is stopped goes on and ends in the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import pretended
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, digests, scored
from torch import Tensor

from birdbone.checkpoints import InMemory, Quantized
from birdbone.engine import Chain, ProgressEvent, run
from birdbone.errors import LinkError
from birdbone.journal import RunFolder
from birdbone.links import profile, prune, quantize, score
from birdbone.models.passes import resuming
from birdbone.models.passes.resuming import PassState, Resuming

PASSES = {
    "admm": prune(sparsity=0.5),
    "2:4": prune(pattern="2:4", method="sparsegpt", matching=0),
    "gptq": quantize(group_size=32),
    "values": quantize(group_size=32, symmetric=False),
    "with a correction": quantize(group_size=32, rank=2),
    "signround": quantize(group_size=32, method="signround", iterations=4, batch_size=1),
    "neurons": prune(pattern="neurons"),
    "groups": prune(pattern="groups"),
}


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every block, however little time it took."""
    monkeypatch.setattr(resuming, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(resuming, "SAVING_FRACTION", float("inf"))


class StopAfter:
    """Middleware that ends a link when it has done so many blocks, and counts what it sees."""

    def __init__(self, blocks: int, label: str) -> None:
        self.blocks, self.label = blocks, label
        self.seen: list[int] = []

    async def before(self, link: Any, ctx: Any, mwctx: Any) -> None: ...

    def progress(self, link: Any, event: ProgressEvent, mwctx: Any) -> None:
        if not event.label.endswith(self.label):
            return
        self.seen.append(event.done)
        if event.done == self.blocks:
            raise KeyboardInterrupt


async def stopped(
    link: Any, ctx: Mapping[str, Any], folder: Path, blocks: int, label: str = "ing blocks"
) -> list[int]:
    """Run until so many blocks are done; which were worked on."""
    chain, eyes = Chain(link), StopAfter(blocks, label)
    chain.use(eyes)
    with RunFolder(folder) as store, pytest.raises(KeyboardInterrupt):
        await chain.run(ctx, store=store)
    return eyes.seen


@pytest.mark.filterwarnings("ignore:quantize stores dequantised values:UserWarning")
@pytest.mark.parametrize("kind", PASSES)
async def test_a_stopped_pass_ends_in_the_same_bytes(kind: str, tmp_path: Path) -> None:
    link, ctx = PASSES[kind], await scored("llama")
    whole = await run(link, ctx)
    assert await stopped(link, ctx, tmp_path, 1) == [1]
    assert await stopped(link, ctx, tmp_path, 2) == [2]
    with RunFolder(tmp_path) as store:
        resumed = await run(link, ctx, store=store)
    assert digests(resumed["checkpoint"]) == digests(whole["checkpoint"])
    assert resumed["checkpoint"].id == whole["checkpoint"].id
    assert resumed.get("plan") == whole.get("plan")
    assert resumed["history"][-1].metrics == whole["history"][-1].metrics
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.mark.parametrize("kind", ["admm", "gptq", "signround", "groups"])
async def test_on_an_accelerator_too(kind: str, tmp_path: Path) -> None:
    with pretended() as ledger:
        await test_a_stopped_pass_ends_in_the_same_bytes(kind, tmp_path)
        assert ledger.operations > 0
        assert ledger.allocated == 0


async def test_progress_in_other_batches_is_not_gone_on_with(tmp_path: Path) -> None:
    """Such as from before the batch size was halved for lack of memory."""
    place, ctx = Kept(), await scored("llama")
    Resuming(place).save(standing())
    assert Resuming(place).load(torch.device("cpu"), len(standing().hidden)) is not None
    assert Resuming(place).load(torch.device("cpu"), len(standing().hidden) + 1) is None
    one, two = prune(sparsity=0.5, batch_size=1), prune(sparsity=0.5, batch_size=2)
    whole = await run(two, ctx)
    await stopped(one, ctx, tmp_path, 1)
    with RunFolder(tmp_path) as store:
        after = await run(two, ctx, store=store)
    assert after["checkpoint"].id == whole["checkpoint"].id


async def test_experts_are_kept_as_they_stand(tmp_path: Path) -> None:
    link, ctx = prune(sparsity=0.5), await scored("mixtral")
    whole = await run(link, ctx)
    await stopped(link, ctx, tmp_path, 2)
    with RunFolder(tmp_path) as store:
        resumed = await run(link, ctx, store=store)
    assert digests(resumed["checkpoint"]) == digests(whole["checkpoint"])


async def require_bridged_on(link: Any, ctx: Any, folder: Path, whole: Any) -> None:
    """No block is tried again, and gaps only behind the first, to the same end as unbroken."""
    seen = StopAfter(-1, "")
    chain = Chain(link)
    chain.use(seen)
    with RunFolder(folder) as store:
        resumed = await chain.run(ctx, store=store)
    assert seen.seen == [*whole["plan"].kept_layers[2:], 7]
    assert digests(resumed["checkpoint"]) == digests(whole["checkpoint"])
    assert resumed["plan"] == whole["plan"]


async def test_blocks_left_out_and_gaps_bridged_are_gone_on_with(tmp_path: Path) -> None:
    ctx = await run(Chain(profile(), score()), calibrated(tiny_checkpoint(num_hidden_layers=7)))
    link = prune(pattern="layers", sparsity=0.5)
    whole = await run(link, ctx)
    kept = whole["plan"].kept_layers
    assert await stopped(link, ctx, tmp_path, 1, "ranking blocks") == [1]
    assert await stopped(link, ctx, tmp_path, 2, "ranking blocks") == [2]
    first = kept[1]
    assert await stopped(link, ctx, tmp_path, first, "refitting blocks") == [first]
    await require_bridged_on(link, ctx, tmp_path, whole)


async def test_what_was_kept_seldom_is_not_older_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = await run(Chain(profile(), score()), calibrated(tiny_checkpoint(num_hidden_layers=7)))
    link = prune(pattern="layers", sparsity=0.5)
    whole = await run(link, ctx)
    kept = whole["plan"].kept_layers
    asked = iter(range(100))
    save = Resuming.save

    def seldom(self: Resuming, standing: PassState) -> None:
        if next(asked) in (0, 3):  # after the first of three rounds, and behind the first block
            save(self, standing)

    monkeypatch.setattr(Resuming, "save", seldom)
    await stopped(link, ctx, tmp_path, kept[1], "refitting blocks")
    await require_bridged_on(link, ctx, tmp_path, whole)


async def test_a_choice_of_experts_is_gone_on_with(tmp_path: Path) -> None:
    link, ctx = prune(pattern="experts"), await scored("mixtral")
    whole = await run(link, ctx)
    assert await stopped(link, ctx, tmp_path, 1, "ranking experts") == [1]
    assert await stopped(link, ctx, tmp_path, 2, "ranking experts") == [2]
    with RunFolder(tmp_path) as store:
        resumed = await run(link, ctx, store=store)
    assert digests(resumed["checkpoint"]) == digests(whole["checkpoint"])
    assert resumed["plan"] == whole["plan"]


async def test_other_settings_do_not_go_on_from_it(tmp_path: Path) -> None:
    ctx = await scored("llama")
    await stopped(prune(sparsity=0.5), ctx, tmp_path, 2)
    assert await stopped(prune(sparsity=0.25), ctx, tmp_path, 2) == [1, 2]


async def test_a_pass_that_fails_for_a_reason_leaves_what_it_did(tmp_path: Path) -> None:
    ctx = calibrated(tiny_checkpoint())
    bad = dict(ctx["checkpoint"].tensors)
    name = "model.layers.2.mlp.down_proj.weight"
    spoiled = ctx["checkpoint"].evolve({name: torch.full_like(bad[name], 1e38)})
    with RunFolder(tmp_path) as store, pytest.raises(LinkError):
        await run(quantize(group_size=32), {**ctx, "checkpoint": spoiled}, store=store)
    assert len(list((tmp_path / "unfinished").iterdir())) == 1


class Kept:
    """A place in memory."""

    def __init__(self) -> None:
        self.held: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.saves = 0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.held

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.held, self.saves = (dict(tensors), dict(facts)), self.saves + 1


def standing(index: int = 1) -> PassState:
    codes = torch.ones(2, 4, dtype=torch.int8)
    quantized = Quantized(codes, torch.ones(2, 1), bits=4, zero_points=torch.zeros(2, 1).char())
    rewritten = {"a.weight": torch.ones(2), "a.w": quantized, "a": InMemory(torch.zeros(1))}
    return PassState(index, [torch.ones(1), torch.zeros(1)], None, rewritten)


def test_every_kind_of_tensor_comes_back_in_its_order() -> None:
    place = Kept()
    Resuming(place).save(standing())
    found = Resuming(place).load(torch.device("cpu"))
    assert found is not None
    assert (found.index, found.given) == (1, None)
    assert list(found.rewritten) == ["a.weight", "a.w", "a"]
    for name, value in standing().rewritten.items():
        assert type(found.rewritten[name]) is type(value)
    quantized = found.rewritten["a.w"]
    assert isinstance(quantized, Quantized)
    assert quantized.digest == standing().rewritten["a.w"].digest  # type: ignore[union-attr]


def test_saving_is_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow(Kept):
        def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
            super().save(tensors, facts)
            now[0] += 2.0

    monkeypatch.setattr(resuming, "PAUSE_SECONDS", 30.0)
    monkeypatch.setattr(resuming, "SAVING_FRACTION", 1 / 30)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    place = Slow()
    keeper = Resuming(place)
    saves = []
    for second in (29.0, 31.0, 60.0, 92.0, 94.0):
        now[0] = second
        keeper.save(standing())
        saves.append(place.saves)
    assert saves == [0, 1, 1, 1, 2]  # 31 + 2 s, and then 30 times those 2 s must go by


def test_progress_of_several_ranks_goes_on_in_one_process() -> None:
    place, hidden = Kept(), [torch.full((n, 1), float(n)) for n in (1, 2, 3)]
    Resuming(place).save(PassState(1, hidden, list(hidden), {}))
    assert place.held is not None
    place.held[1]["ranks"] = 2
    found = Resuming(place).load(torch.device("cpu"), batches=2)
    assert found is not None
    taken = found.of_rank([torch.empty(4, 1), torch.empty(2, 1)])
    for states in (taken.hidden, taken.given):
        assert states is not None
        assert [len(each) for each in states] == [4, 2]
        assert torch.equal(torch.cat(list(states)), torch.cat(hidden))
