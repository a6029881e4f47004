"""The tables themselves: what a row must be. Properties of every row are in the files beside."""

from __future__ import annotations

import inspect

import pytest

from birdbone.solvers.table import PREPARE, PRUNERS, QUANTIZERS, Pruner, Quantizer

ROWS = [
    *((Pruner, name, prune) for name, prune in PRUNERS.items()),
    *((Quantizer, name, quantize) for name, quantize in QUANTIZERS.items()),
]


@pytest.mark.parametrize(("protocol", "name", "method"), ROWS, ids=[row[1] for row in ROWS])
def test_a_row_takes_what_its_protocol_says(protocol, name, method) -> None:
    """By name and default; what else it takes has a default and is keyword-only."""
    wanted = dict(list(inspect.signature(protocol.__call__).parameters.items())[1:])
    found = inspect.signature(method).parameters
    for key, parameter in wanted.items():
        assert found[key].kind == parameter.kind, key
        assert key == "gram" or found[key].default == parameter.default, key
    for key in found.keys() - wanted.keys():
        assert found[key].kind == inspect.Parameter.KEYWORD_ONLY
        assert found[key].default is not inspect.Parameter.empty


def test_only_methods_of_the_tables_are_prepared_for() -> None:
    assert PREPARE.keys() <= PRUNERS.keys() | QUANTIZERS.keys()


@pytest.mark.parametrize("table", [PRUNERS, QUANTIZERS, PREPARE])
def test_a_table_cannot_be_changed(table) -> None:
    with pytest.raises(TypeError):
        table["none"] = None
