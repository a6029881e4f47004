"""The typed contexts fit together: what one link adds is what another needs, with one type."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, get_type_hints, is_typeddict

import pytest

from birdbone.chains import CHAINS, LINKS
from birdbone.contexts import flow
from birdbone.engine.context_keys import all_keys, required_keys

CONTEXTS: Mapping[str, Any] = {
    name: kind
    for name, kind in vars(flow).items()
    if is_typeddict(kind) and kind.__module__ == flow.__name__
}
# Not part of a context: figures of a step.
NOT_KEPT = {"metrics"}


def test_a_need_is_cumulative() -> None:
    """A link that needs scores may rely on the profile, the text and the model too."""
    order = [flow.Empty, flow.Opened, flow.Loaded, flow.Calibrated, flow.Profiled, flow.Scored]
    needs = [required_keys(kind) - NOT_KEPT for kind in order]
    assert needs[-1] == {
        *("checkpoint", "dense", "calibration", "healing", "heldout", "profile", "scores")
    }
    for smaller, larger in pairwise(needs):
        assert smaller <= larger


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (flow.Profiling, {"profile"}),
        (flow.Scoring, {"scores"}),
        (flow.Sensitive, {"sensitivity"}),
        (flow.Allocating, {"allocation"}),
        (flow.Pruned, {"checkpoint", "plan"}),
        (flow.Validated, {"verdict", "reference"}),
        (flow.Written, {"saved"}),
        (flow.Selected, {"checkpoint", "verdict", "reference", "allocation"}),
        (flow.Calibrating, {"calibration", "healing", "heldout", "elsewhere"}),
    ],
)
def test_what_is_added_is_only_its_own(kind: Any, keys: set[str]) -> None:
    assert required_keys(kind) == keys
    assert all_keys(kind) == keys | NOT_KEPT


def test_a_check_knows_every_key() -> None:
    """Hooks that see any point of a chain get a type that names whatever a link may add."""
    every = {key for kind in CONTEXTS.values() for key in all_keys(kind) or ()} - NOT_KEPT
    assert all_keys(flow.Partial) == every
    assert required_keys(flow.Partial) == set()


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_key_means_one_type(name: str) -> None:
    wanted = get_type_hints(flow.Partial)
    for key, kind in get_type_hints(CONTEXTS[name]).items():
        if key not in NOT_KEPT:
            assert kind == wanted[key], key


@pytest.mark.parametrize("name", LINKS)
def test_links_speak_of_known_keys(name: str) -> None:
    known = all_keys(flow.Partial) or frozenset()
    factory = LINKS[name]
    assert not factory.open_ended
    read = (factory.may_read or frozenset()) - NOT_KEPT
    assert factory.needs | factory.adds | read <= known


@pytest.mark.parametrize("name", LINKS)
def test_what_is_needed_can_be_had(name: str) -> None:
    """Of another link: no link needs a key that none adds."""
    added = {key for other, factory in LINKS.items() if other != name for key in factory.adds}
    assert LINKS[name].needs <= added


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_starts_from_nothing(name: str) -> None:
    chain = CHAINS[name](model="m", out="o")
    assert chain.needs == set()
    assert "saved" in chain.adds
