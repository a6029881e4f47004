"""With a run folder a pass holds one block: what it finished is on disk, not in memory."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, digests, scored

from birdbone.checkpoints import Quantized
from birdbone.checkpoints.store import Stored, StoredCodes
from birdbone.engine import Chain, ProgressEvent, run
from birdbone.journal import RunFolder
from birdbone.links import prune, quantize
from birdbone.models.passes import resuming

PASSES: dict[str, tuple[Any, type]] = {
    "codes": (quantize(group_size=32), StoredCodes),
    "masks": (prune(sparsity=0.5), Stored),
    "neurons": (prune(pattern="neurons", sparsity=0.25), Stored),
}


class Counting:
    """Middleware that counts codes in memory whenever a block is done."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    async def before(self, link: Any, ctx: Any, mwctx: Any) -> None: ...

    def progress(self, link: Any, event: ProgressEvent, mwctx: Any) -> None:
        gc.collect()
        held = [each for each in gc.get_objects() if type(each) is Quantized]
        self.counts.append(len(held))


@pytest.mark.parametrize("name", PASSES)
async def test_finished_tensors_are_on_disk_and_the_result_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, kind = PASSES[name]
    ctx = await scored("llama_tied")
    kept: list[Any] = []
    whole = resuming.Resuming.kept

    def noting(self: resuming.Resuming, finished: Any) -> Any:
        found = whole(self, finished)
        kept.extend(found.values())
        return found

    monkeypatch.setattr(resuming.Resuming, "kept", noting)
    plain = await run(step, ctx)
    assert not any(isinstance(each, kind) for each in kept)
    kept.clear()
    with RunFolder(tmp_path / "run") as store:
        stored = await run(step, ctx, store=store)
    assert kept
    assert {type(each) for each in kept} == {kind}
    assert digests(stored["checkpoint"]) == digests(plain["checkpoint"])
    assert not list((tmp_path / "run" / "unfinished").glob("*"))


async def test_codes_of_finished_blocks_are_not_in_memory(tmp_path: Path) -> None:
    ctx = calibrated(tiny_checkpoint())
    held, streamed = Counting(), Counting()
    before = sum(type(each) is Quantized for each in gc.get_objects())
    chain = Chain(quantize(group_size=32))
    chain.use(held)
    await run(chain, ctx)
    chain = Chain(quantize(group_size=32))
    chain.use(streamed)
    with RunFolder(tmp_path / "run") as store:
        await run(chain, ctx, store=store)
    assert held.counts[-1] > held.counts[0] > before
    assert streamed.counts[-1] == streamed.counts[0]
