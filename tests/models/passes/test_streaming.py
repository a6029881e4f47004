"""With a run folder a pass holds one block: what it finished is on disk, not in memory."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from deep_llama import layer_weights, needs_proc, printed, save_deep_llama
from tiny import tiny_checkpoint, tiny_tokenizer
from tiny_contexts import calibrated, digests, scored
from tiny_passes import PASSES, shrunk

from birdbone.checkpoints import Quantized
from birdbone.engine import Chain, ProgressEvent, run
from birdbone.journal import RunFolder
from birdbone.links import quantize
from birdbone.models.passes import resuming


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
    if name == "healed":
        ctx = {**ctx, "checkpoint": shrunk(ctx["checkpoint"])}
    kept: list[Any] = []
    whole = resuming.Keeping.kept

    def noting(self: resuming.Keeping, finished: Any) -> Any:
        found = whole(self, finished)
        kept.extend(found.values())
        return found

    monkeypatch.setattr(resuming.Keeping, "kept", noting)
    plain = await run(step, ctx)
    assert not any(isinstance(each, kind) for each in kept)
    kept.clear()
    with RunFolder(tmp_path / "run") as store:
        stored = await run(step, ctx, store=store)
    assert kept
    assert {type(each) for each in kept} == {kind}
    assert digests(stored["checkpoint"]) == digests(plain["checkpoint"])
    assert digests(plain["checkpoint"]) != digests(ctx["checkpoint"])
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


QUANTIZE = """
import asyncio, json, sys
from birdbone import Chain, run
from birdbone.journal import RunFolder
from birdbone.links import calibrate, load, quantize

folder, held = Path(sys.argv[1]), []

class Watch:
    async def before(self, link, ctx, mwctx): ...

    def progress(self, link, event, mwctx):
        if link.__name__ == "quantize":
            held.append(held_bytes())

parts = dict(healing_windows=1, heldout_windows=2, elsewhere_windows=2)
chain = Chain(
    load(model=str(folder / "model")),
    calibrate(data=str(folder / "words.txt"), length=64, windows=8, **parts),
    quantize(group_size=64, matching=0.0),
)
chain.use(Watch())

async def main():
    with RunFolder(folder / "run") as store:
        await run(chain, {}, store=store)

asyncio.run(main())
print(json.dumps(held))
"""
LAYERS = 48
SIZES = {"width": 768, "inner": 2048, "heads": 12}


def bytes_held(folder: Path) -> list[int]:
    """Anonymous memory after each block of a random bfloat16 Llama, quantised block by block."""
    save_deep_llama(folder / "model", LAYERS, **SIZES)
    tiny_tokenizer().save_pretrained(folder / "model")
    words = [f"number {place} of the other thing " * 20 for place in range(400)]
    (folder / "words.txt").write_text("\n\n".join(words))
    found: list[int] = printed(QUANTIZE, folder)
    return found


@pytest.mark.slow
@needs_proc
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_from_block_to_block(tmp_path: Path) -> None:
    held = bytes_held(tmp_path)
    assert len(held) == LAYERS
    third = LAYERS // 3  # the first is left out: until then the C library's heap fills
    codes = third * layer_weights(**SIZES)  # of a third, a byte each
    assert max(held[2 * third :]) - max(held[third : 2 * third]) < codes / 2
