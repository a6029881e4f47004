"""How many units are left: the multiple nearest to the sparsity, found here by trying all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint

from birdbone.errors import SettingError
from birdbone.links.pruning.settings import PruneSettings
from birdbone.links.pruning.unit_sizes import (
    check_units,
    default_multiple,
    layers_left,
    units_left,
    wanted_size,
)


@given(st.integers(2, 300), st.floats(0, 0.99), st.integers(1, 64))
def test_the_nearest_multiple_is_left_or_refused(before: int, sparsity: float, step: int) -> None:
    asked = (1 - sparsity) * before
    sizes = range(0, before + step + 1, step)
    least = min(abs(size - asked) for size in sizes)
    nearest = {size for size in sizes if abs(size - asked) <= least + 1e-9}  # two in a tie
    possible = {size for size in nearest if 0 < size < before}
    try:
        found = units_left("neurons", before, sparsity, step)
    except SettingError:
        assert possible != nearest
    else:
        assert found in possible


@given(st.integers(2, 4096))
def test_the_default_multiple_leaves_at_least_eight_steps(before: int) -> None:
    step = default_multiple("neurons", before)
    powers = [2**power for power in range(7) if 8 * 2**power <= before]
    assert step == max(powers, default=1)
    assert default_multiple("groups", before) == default_multiple("layers", before) == 1


def test_the_size_to_set_is_one_that_works() -> None:
    with pytest.raises(SettingError, match=r"0 of 64 neurons would be left") as refused:
        units_left("neurons", 64, 0.99, 16)
    sparsity = float(str(refused.value).rpartition("set sparsity to ")[2])
    assert units_left("neurons", 64, sparsity, 16) == 16


def test_a_multiple_as_large_as_the_model_is_refused() -> None:
    with pytest.raises(SettingError, match="there are 3 layers, so no smaller multiple of 4"):
        units_left("layers", 3, 0.5, 4)


def test_sizes_of_a_model() -> None:
    checkpoint = tiny_checkpoint()
    settings = PruneSettings(pattern="neurons", sparsity=0.25)
    assert wanted_size(checkpoint, "neurons", settings).after == 48
    assert layers_left(checkpoint, PruneSettings(pattern="layers", sparsity=0.3)) == 2


def test_settings_of_masks_are_refused_by_name() -> None:
    settings = PruneSettings(pattern="neurons", regrow=0.1)
    with pytest.raises(SettingError, match=r"prune\(regrow=0\.1\) is for masks, and pattern"):
        check_units({}, settings, "neurons")
    check_units({}, PruneSettings(pattern="neurons", sparsity=0.99), "neurons")  # no model yet
    with pytest.raises(SettingError, match="0 of 64 neurons would be left"):
        check_units(
            {"checkpoint": tiny_checkpoint()},
            PruneSettings(pattern="neurons", sparsity=0.99),
            "neurons",
        )
