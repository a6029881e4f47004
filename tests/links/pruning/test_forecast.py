"""What prune is expected to cost, and the shapes it will leave."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.forecast import Forecast
from birdbone.errors import SettingError
from birdbone.links.pruning.forecast import prune_forecast
from birdbone.links.pruning.settings import PruneSettings

BLOCKS, WINDOWS = 3, 4


def told(arch: str = "llama", *, num: int = WINDOWS, **settings: Any) -> Forecast:
    ctx: Any = calibrated(tiny_checkpoint(arch), num=num)
    return prune_forecast(ctx, PruneSettings(**settings))


def sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: tuple(ref.shape) for name, ref in checkpoint.refs.items()}


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_mask_changes_no_shape(pattern: str) -> None:
    found = told(pattern=pattern)
    assert sizes(found.adds["checkpoint"]) == sizes(tiny_checkpoint())
    assert (found.adds["plan"].method, found.adds["plan"].pattern) == ("admm", pattern)


def test_matching_runs_every_block_a_third_time() -> None:
    plain, matched = told(matching=0.0), told()
    assert plain.block_passes == BLOCKS * WINDOWS * 2
    assert matched.block_passes == BLOCKS * WINDOWS * 3
    assert matched.gram_passes == 2 * plain.gram_passes
    assert matched.memory_bytes > plain.memory_bytes


def test_methods_that_only_rank_are_never_matched() -> None:
    found = told(method="magnitude", matching=1.0)
    assert found.block_passes == BLOCKS * WINDOWS * 2
    assert found.solves == 0


def test_work_of_methods() -> None:
    """Ranking is the cheapest, and the run to convergence dearer than a few iterations."""
    wanda, sparsegpt, admm, alps = (
        told(method=method, matching=0.0) for method in ("wanda", "sparsegpt", "admm", "alps")
    )
    products = [each.products for each in (wanda, sparsegpt, admm, alps)]
    assert products == sorted(products)
    assert len(set(products)) == 4
    assert wanda.solves == 0 < admm.solves


def test_text_multiplies_the_passes() -> None:
    assert told(num=12).block_passes == 3 * told().block_passes
    assert told(num=12).products == told().products


@pytest.mark.parametrize(
    ("pattern", "key", "value"),
    [
        ("neurons", "intermediate_size", 32),
        ("groups", "num_key_value_heads", 1),
        ("layers", "num_hidden_layers", 2),
    ],
)
def test_units_leave_a_smaller_model(pattern: str, key: str, value: int) -> None:
    found = told(pattern=pattern, sparsity=0.34 if pattern == "layers" else 0.5)
    light = found.adds["checkpoint"]
    assert light.config[key] == value
    assert light.num_parameters < tiny_checkpoint().num_parameters
    assert found.adds["plan"].pattern == pattern
    assert found.memory_bytes > tiny_checkpoint().num_bytes


def test_experts_are_tried_one_by_one() -> None:
    """4 experts in each of 3 blocks, on the 4 windows that they are ranked on."""
    neurons, experts = told("mixtral", pattern="neurons"), told("mixtral", pattern="experts")
    assert experts.block_passes - neurons.block_passes == 4 * BLOCKS * WINDOWS


def test_choice_by_loss_takes_a_gradient_pass() -> None:
    by_loss, by_error = (told(pattern="neurons", choice=each) for each in ("loss", "error"))
    assert by_loss.block_passes - by_error.block_passes == 3 * BLOCKS * WINDOWS
    assert by_loss.head_passes - by_error.head_passes == 3 * WINDOWS


def test_layers_are_tried_one_by_one() -> None:
    """To remove two of three, more trials are needed than to remove one."""
    plain = told(pattern="groups", sparsity=0.5).block_passes
    one, two = (told(pattern="layers", sparsity=share).block_passes for share in (0.34, 0.67))
    assert plain < one < two


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(SettingError, match=r"groups in every block|groups would be left"):
        told(pattern="groups", sparsity=0.9)


def test_longer_windows_take_more_memory() -> None:
    ctx: Any = calibrated(tiny_checkpoint())
    long = {**ctx, "calibration": tiny_windows(4, 64)}
    settings = PruneSettings(pattern="neurons")
    assert prune_forecast(long, settings).memory_bytes > prune_forecast(ctx, settings).memory_bytes
