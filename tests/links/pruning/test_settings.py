"""The settings of prune: their bounds, the two kinds of pattern, and what is set in vain."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from tiny_contexts import scored

from birdbone.engine import run
from birdbone.errors import LinkError, SettingError
from birdbone.links import prune
from birdbone.links.pruning.settings import PruneSettings, takes_units, warn_of_unused

UNITS = ("neurons", "groups", "experts", "layers")


@pytest.mark.parametrize("pattern", UNITS)
def test_units(pattern: str) -> None:
    assert takes_units(pattern)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "", "neuron", "Layers"])
def test_no_units(pattern: str) -> None:
    assert not takes_units(pattern)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsity": 1.0}, r"prune\(sparsity=1\.0\): Input should be less than 1"),
        ({"sparsity": -0.1}, r"prune\(sparsity=-0\.1\): .* greater than or equal to 0"),
        ({"spread": 0.5}, r"prune\(spread=0\.5\): Input should be less than 0\.5"),
        ({"damping": 0.0}, r"prune\(damping=0\.0\): Input should be greater than 0"),
        ({"polish": -1}, r"prune\(polish=-1\): .* greater than or equal to 0"),
        ({"matching": 1.5}, r"prune\(matching=1\.5\): .* less than or equal to 1"),
        ({"regrow": 1.5}, r"prune\(regrow=1\.5\): .* less than or equal to 1"),
        ({"multiple": 0}, r"prune\(multiple=0\): .* greater than or equal to 1"),
        ({"method": "obs"}, r"prune\(method='obs'\): Input should be 'admm', "),
        ({"allocation": "owl"}, r"prune\(allocation='owl'\): .* 'uniform' or 'load'"),
    ],
)
def test_out_of_range(given: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        prune(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"multiple": 8}, r"prune\(multiple=8\) is not used: .* 'unstructured' leaves a mask"),
        ({"spread": 0.2}, r"prune\(spread=0\.2\) is not used: allocation 'uniform' gives every"),
        (
            {"method": "wanda", "matching": 0.5},
            r"prune\(matching=0\.5\) is not used: method 'wanda' does not change the weights",
        ),
        (
            {"method": "magnitude", "damping": 0.1},
            r"prune\(damping=0\.1\) is not used: method 'magnitude' solves no equations",
        ),
        (
            {"pattern": "experts", "damping": 0.1},
            r"prune\(damping=0\.1\) is not used: experts are removed without refitting",
        ),
        (
            {"choice": "error"},
            r"choice='error'\) is not used: pattern 'unstructured' is chosen othe",
        ),
        (
            {"pattern": "groups", "choice": "error"},
            r"not used: pattern 'groups' is chosen otherwise",
        ),
        ({"pattern": "experts", "matching": 1.0}, r"matching=1\.0\) is not used: experts"),
    ],
)
def test_set_in_vain(given: Any, message: str) -> None:
    with pytest.warns(UserWarning, match=message) as found:
        warn_of_unused(PruneSettings(**given))
    assert len(found) == 1


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"method": "magnitude", "matching": 0.0},
        {"method": "magnitude", "damping": 0.1, "polish": 3},
        {"allocation": "load", "spread": 0.2},
        {"method": "sparsegpt", "matching": 0.5, "damping": 0.1},
        {"pattern": "neurons", "multiple": 8, "damping": 0.1, "matching": 0.0},
        {"pattern": "neurons", "choice": "error"},
        {"pattern": "layers", "matching": 1.0, "damping": 0.1},
        {"pattern": "experts", "sparsity": 0.5, "multiple": 2},
    ],
)
def test_used(given: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unused(PruneSettings(**given))


async def test_the_link_warns() -> None:
    ctx = await scored("llama")
    with pytest.warns(UserWarning, match=r"multiple=8\) is not used"):
        await run(prune(sparsity=0.5, method="magnitude", multiple=8), ctx)


async def test_spread_is_for_masks() -> None:
    ctx = await scored("llama")
    with pytest.raises(LinkError, match=r"prune\(spread=0\.2\) is for masks, and pattern 'neuro"):
        await run(prune(pattern="neurons", spread=0.2), ctx)
