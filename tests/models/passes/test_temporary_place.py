"""Without a run folder, finished tensors are on disk for as long as they are needed."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, digests, scored
from tiny_passes import PASSES, shrunk

from birdbone.checkpoints import InMemory, Quantized
from birdbone.checkpoints.store import Stored, StoredCodes
from birdbone.engine import run
from birdbone.links import quantize
from birdbone.models.passes import temporary_place
from birdbone.models.passes.temporary_place import TemporaryPlace


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files; nothing stays in memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary_place, "HELD_BYTES", 0)
    return tmp_path


def folders(temporary: Path) -> list[Path]:
    return list(temporary.iterdir())


@pytest.mark.parametrize("name", PASSES)
async def test_same_result(name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, kind = PASSES[name]
    ctx = await scored("llama_tied")
    if name == "healed":
        ctx = {**ctx, "checkpoint": shrunk(ctx["checkpoint"])}
    on_disk = (await run(step, ctx))["checkpoint"]
    monkeypatch.setattr(temporary_place, "HELD_BYTES", 10**9)
    held = (await run(step, ctx))["checkpoint"]
    assert digests(on_disk) == digests(held) != digests(ctx["checkpoint"])
    changed = [n for n, ref in held.refs.items() if ctx["checkpoint"].refs.get(n) is not ref]
    assert {type(on_disk.refs[n]) for n in changed} == {kind}
    assert not {type(held.refs[n]) for n in changed} & {kind}
    assert folders(temporary)
    del on_disk, ctx
    gc.collect()
    assert not folders(temporary)


async def test_codes_of_finished_blocks_are_not_in_memory(temporary: Path) -> None:
    before = sum(type(each) is Quantized for each in gc.get_objects())
    light = (await run(quantize(group_size=32), calibrated(tiny_checkpoint())))["checkpoint"]
    assert sum(type(each) is Quantized for each in gc.get_objects()) == before
    assert sum(isinstance(ref, StoredCodes) for ref in light.refs.values()) == 21


def test_the_first_bytes_stay_in_memory(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary_place, "HELD_BYTES", 100)
    place = TemporaryPlace()
    first, second, third = (InMemory(torch.full((20,), float(n))) for n in range(3))
    assert place.keep(first) is first  # 80 bytes
    for ref in (second, third):
        kept = place.keep(ref)
        assert isinstance(kept, Stored)
        assert torch.equal(kept.load(), ref.load())
    assert len(folders(temporary)) == 1


def test_no_room_on_disk(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, and one warning says why memory grows."""
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    place, ref = TemporaryPlace(), InMemory(torch.ones(4))
    with pytest.warns(UserWarning, match=r"finished tensors stay in memory, .* set TMPDIR, or"):
        assert place.keep(ref) is ref
    assert place.keep(ref) is ref
