"""Every link leaves its context as it was and gives the same bytes again, whoever runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import modulink
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from tiny_contexts import calibrated
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.checkpoints.tensors import TensorRef, digest
from birdbone.contexts.steps import Step
from birdbone.engine import Chain, run
from birdbone.links import (
    calibrate,
    heal,
    load,
    profile,
    prune,
    quantize,
    score,
    sensitivity,
    validate,
)
from birdbone.middleware import GpuMemory, Progress, Timing

LINKS: dict[str, Any] = {
    "load": lambda folder: load(model=str(folder / "model")),
    "calibrate": lambda folder: calibrate(
        data=str(folder / "text"), windows=3, healing_windows=2, heldout_windows=2, length=16
    ),
    "profile": lambda _: profile(),
    "profile full": lambda _: profile(moments="full"),
    "score wanda": lambda _: score(per_weight=True),
    "score sparsegpt": lambda _: score(method="sparsegpt"),
    "score taylor": lambda _: score(method="taylor", windows=2),
    "prune sparsegpt": lambda _: prune(sparsity=0.5),
    "prune 2:4": lambda _: prune(pattern="2:4", method="wanda"),
    "prune by scores": lambda _: prune(sparsity=0.3, method="scores", allocation="load"),
    "heal blocks": lambda _: heal(epochs=1),
    "quantize gptq": lambda _: quantize(group_size=16),
    "quantize rtn": lambda _: quantize(group_size=16, method="rtn"),
    "quantize nf4": lambda _: quantize(method="nf4"),
    "quantize int8": lambda _: quantize(method="llm.int8"),
    "validate": lambda _: validate(),
    "sensitivity": lambda _: sensitivity(windows=2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to load and text to calibrate on."""
    place = tmp_path_factory.mktemp("purity")
    tiny_model("llama_tied", hidden_size=64).save_pretrained(place / "model")
    tiny_tokenizer().save_pretrained(place / "model")
    (place / "text").mkdir()
    for number in range(6):
        words = " ".join(f"bone{number}{place_in}" for place_in in range(120))
        (place / "text" / f"{number}.txt").write_text(words, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def full(folder: Path) -> dict[str, Any]:
    """A context that holds what any link may need."""
    chain = Chain(profile(moments="full"), score(per_weight=True))
    return asyncio.run(run(chain, calibrated(tiny_checkpoint("llama_tied", hidden_size=64))))


def content(value: Any) -> Iterator[str]:
    """All that can be reached from a value, in words and digests; costs left out."""
    if isinstance(value, Tensor):
        yield digest(value)
    elif isinstance(value, TensorRef):
        yield digest(value.load())
    elif isinstance(value, Step):
        yield from content((value.link, value.settings, value.metrics, value.checkpoint))
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield field.name
            yield from content(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key)
            yield from content(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from content(each)
    else:
        yield repr(value)


def frozen(ctx: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every key's content."""
    return {key: list(content(value)) for key, value in ctx.items()}


@pytest.mark.parametrize("name", LINKS)
async def test_a_context_given_to_a_link_stays_as_it_was(
    name: str, folder: Path, full: dict[str, Any]
) -> None:
    objects, before = dict(full), frozen(full)
    after = await LINKS[name](folder)(full)
    assert after is not full
    assert full.keys() == objects.keys()
    assert all(full[key] is objects[key] for key in objects)
    assert frozen(full) == before
    assert after["history"][:-1] == full["history"]


@pytest.mark.parametrize("name", LINKS)
async def test_a_link_run_twice_gives_the_same_bytes(
    name: str, folder: Path, full: dict[str, Any]
) -> None:
    link = LINKS[name](folder)
    torch.manual_seed(1)
    first = await link(full)
    torch.manual_seed(2)  # nothing may hang on the global generator
    second = await link(full)
    assert frozen(first) == frozen(second)
    assert first["checkpoint"].id == second["checkpoint"].id


@pytest.mark.parametrize("name", LINKS)
async def test_a_link_draws_nothing_from_the_global_generator(
    name: str, folder: Path, full: dict[str, Any]
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    await LINKS[name](folder)(full)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", LINKS)
async def test_being_watched_changes_no_byte(name: str, folder: Path, full: dict[str, Any]) -> None:
    link = LINKS[name](folder)
    watched = Chain(link)
    for middleware in (Timing(), GpuMemory(), Progress()):
        watched.use(middleware)
    assert frozen(await run(watched, full)) == frozen(await run(Chain(link), full))


async def test_modulinks_own_chain_gives_the_same_models(folder: Path) -> None:
    names = ("load", "calibrate", "profile", "score wanda", "prune sparsegpt", "quantize gptq")
    links = [*(LINKS[name](folder) for name in names), validate()]
    ours = await run(Chain(*links))
    theirs = await modulink.Chain(*links).run(modulink.Context())
    assert "exception" not in theirs
    assert [step.checkpoint for step in theirs["history"]] == [
        step.checkpoint for step in ours["history"]
    ]
    assert len({step.checkpoint for step in ours["history"]}) == 3
    assert theirs["verdict"] == ours["verdict"]


@settings(max_examples=12)
@given(
    sparsity=st.floats(0, 0.95),
    method=st.sampled_from(["sparsegpt", "wanda", "magnitude", "scores"]),
    batch_size=st.integers(1, 5),
)
def test_no_setting_of_prune_touches_the_old_checkpoint(
    full: dict[str, Any], sparsity: float, method: Any, batch_size: int
) -> None:
    old: Checkpoint = full["checkpoint"]
    before = list(content(old))
    link = prune(sparsity=sparsity, method=method, batch_size=batch_size)
    first, second = (asyncio.run(run(link, full))["checkpoint"] for _ in range(2))
    assert list(content(old)) == before
    assert first.id == second.id
    assert first.parent == old.id
