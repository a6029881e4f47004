"""Layers arranged by block and kind."""

import math

from recorded import ROLES, layers

from birdbone.reports.html_report.layers import layer_grid


def test_values_stand_by_role_and_block() -> None:
    grid = layer_grid(layers(blocks=12), "relative_error", "error")
    assert grid is not None
    assert tuple(grid.roles) == ROLES
    assert list(grid.blocks) == [str(block) for block in range(12)]
    assert grid.values()[1][11] == 0.001 * 12 * 2


def test_a_layer_without_the_value_is_a_gap() -> None:
    entries = layers()
    del entries[-1]["relative_error"]
    grid = layer_grid(entries, "relative_error", "error")
    assert grid is not None
    assert math.isnan(grid.values()[-1][-1])


def test_fewer_than_two_layers_are_no_grid() -> None:
    assert layer_grid(layers(blocks=0), "bits_per_weight", "bits") is None
    assert layer_grid(layers(), "no such value", "bits") is None
