"""Training by each method: on which windows, of which tensors, towards which outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from interrupting import Place
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.plan import Plan
from birdbone.errors import SettingError
from birdbone.links.healing.more_text import HealingText
from birdbone.links.healing.settings import Chosen
from birdbone.links.healing.train import by_blocks, on_text
from birdbone.models.evaluation.scoring import text_scores
from birdbone.models.training.optimiser import Healed
from birdbone.texts import Windows

DENSE = tiny_checkpoint(num_hidden_layers=2)
WINDOWS = tiny_windows(6, 16, seed=3)
QUICK = Chosen(learning_rate=3e-3, epochs=1)
METHODS: list[Any] = ["blocks", "full", "lora"]
LINEARS = [name for name in DENSE.refs if name.endswith("_proj.weight")]
DAMAGED = DENSE.evolve({name: DENSE.tensors[name] * 0.7 for name in LINEARS})


def trained(
    method: Any,
    *,
    how: Chosen = QUICK,
    windows: Windows = WINDOWS,
    seed: int = 0,
    light: Checkpoint = DAMAGED,
    dense: Checkpoint = DENSE,
    **more: Any,
) -> Healed:
    """Two windows are held out."""
    text = HealingText(windows, Place(), {})
    ctx: Any = {**calibrated(dense), "checkpoint": light, **more}
    if method == "blocks":
        return by_blocks(ctx, text, how, 2, seed)
    return on_text(method, ctx, text, how, 2, seed)


@pytest.fixture(scope="module")
def made() -> dict[str, Healed]:
    return {method: trained(method) for method in METHODS}


def same(first: Healed, second: Healed) -> bool:
    """Whether two trainings ended at the same values."""
    return all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())


@pytest.mark.parametrize("method", METHODS)
def test_it_comes_nearer_to_the_original(method: str, made: dict[str, Healed]) -> None:
    text = Windows(WINDOWS.tokens[-2:], "held out")
    healed = DAMAGED.evolve(made[method].weights)
    ((before, after),) = text_scores(DENSE, [DAMAGED, healed], [text], announce=lambda *_: None)
    assert float(after.kl.mean()) < float(before.kl.mean())


def test_what_each_method_trains(made: dict[str, Healed]) -> None:
    """Adapters are merged into linears; blocks train norms too; embeddings only the whole."""
    names = {method: set(found.weights) for method, found in made.items()}
    assert names["lora"] == set(LINEARS)
    assert names["lora"] < names["blocks"] < names["full"]
    assert all("layers." in name for name in names["blocks"])
    assert "model.embed_tokens.weight" in names["full"]


def test_adapters_have_few_values(made: dict[str, Healed]) -> None:
    assert made["full"].trained_parameters == DENSE.num_parameters
    narrow = trained("lora", how=replace(QUICK, rank=2))
    sides = sum(sum(DENSE.refs[name].shape) for name in LINEARS)
    assert narrow.trained_parameters == 2 * sides


@pytest.mark.parametrize("method", ["full", "lora"])
def test_steps(method: str, made: dict[str, Healed]) -> None:
    """Four windows in steps of one, or of two, for each epoch."""
    assert made[method].steps == 4
    assert trained(method, how=replace(QUICK, epochs=2, batch_size=2)).steps == 4


@pytest.mark.parametrize("method", ["full", "lora"])
def test_held_out_windows_are_not_trained_on(method: str, made: dict[str, Healed]) -> None:
    """Other text in their place changes what is reported, and no step of the training."""
    tokens = torch.cat([WINDOWS.tokens[:4], tiny_windows(2, 16, seed=9).tokens])
    other = trained(method, windows=Windows(tokens, "other"))
    assert other.curves["training_loss"] == made[method].curves["training_loss"]
    assert other.curves["heldout_loss"] != made[method].curves["heldout_loss"]


def test_without_kl_no_original_is_run() -> None:
    """A dense model that cannot compute is not asked."""
    broken = DENSE.evolve({"lm_head.weight": DENSE.tensors["lm_head.weight"] * torch.nan})
    found = trained("lora", how=replace(QUICK, kl_weight=0.0), dense=broken)
    assert all(torch.isfinite(tensor).all() for tensor in found.weights.values())


def test_the_plan_says_which_blocks_are_left() -> None:
    """Block 1 of the original is the only one of the light model."""
    refs = DAMAGED.refs.items()
    last = {n.replace("layers.1.", "layers.0."): ref for n, ref in refs if "layers.1." in n}
    rest = {n: ref for n, ref in refs if "layers." not in n}
    light = Checkpoint({**DENSE.config, "num_hidden_layers": 1}, {**rest, **last}, DENSE.files)
    made = trained("blocks", light=light, plan=Plan("kl", "layers", {}, (2, 1), (1,)))
    assert all("layers.0." in name for name in made.weights)
    assert len(made.curves["block_error_after"]) == 1
    with pytest.raises(SettingError, match="1 blocks where the dense one has 2; heal in the chain"):
        trained("blocks", light=light)


@pytest.mark.parametrize("method", ["blocks", "lora"])
def test_the_seed_decides(method: str, made: dict[str, Healed]) -> None:
    assert same(trained(method), made[method])
    assert not same(trained(method, seed=1), made[method])


def test_experts_get_no_adapter() -> None:
    dense = tiny_checkpoint("mixtral", num_hidden_layers=1)
    with pytest.warns(UserWarning, match=r"does not train \d+ expert matrices, such as 'model"):
        found = trained("lora", light=dense, dense=dense)
    assert found.weights
    assert all("experts" not in name for name in found.weights)
