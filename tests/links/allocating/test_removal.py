"""Removal as a rival: what its chain must be, and how it is bound to a fraction and a budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from birdbone.contexts.allocation import Allocation, Candidate
from birdbone.contexts.plan import Plan
from birdbone.engine import Chain
from birdbone.engine.rebuilding import links_with_settings
from birdbone.errors import ChainError
from birdbone.links import allocate, heal, profile, prune, quantize, score, sensitivity
from birdbone.links.allocating.removal import Removal, check_removal, named, removal_of

FIRST, SECOND = (Candidate(name, False, {}, None, 100, 0.0) for name in ("allocated", "other"))
ALLOCATION = Allocation(12_345, (FIRST, SECOND), place=1)
REMOVAL = Chain(
    *(profile(), score(), prune(pattern="neurons"), heal()),
    *(sensitivity(), allocate(ratio=0.5, variants=1)),
)


@pytest.mark.parametrize("healed", [False, True])
def test_bound(healed: bool) -> None:
    """The budget is that of the whole model in bytes, whatever the chain says."""
    made = Removal(REMOVAL, (0.1,)).bound(0.1, ALLOCATION, healed=healed)
    links = {each.__name__: each.settings for each in links_with_settings(made)}
    assert ("heal" in links) == healed
    assert links["prune"].sparsity == 0.1
    budget = links["allocate"]
    assert (budget.bytes, budget.ratio, budget.bits, budget.variants) == (12_345, None, None, 1)
    assert links["score"] is next(
        each.settings for each in REMOVAL.links if each.__name__ == "score"
    )


def test_memory_is_kept() -> None:
    """A smaller model may have a smaller KV cache, which leaves more for its weights."""
    chain = Chain(*REMOVAL.links[:5], allocate(memory="4GB"))
    made = Removal(chain, (0.1,)).bound(0.1, ALLOCATION, healed=False)
    assert (made.links[-1].settings.memory, made.links[-1].settings.bytes) == (4 * 10**9, None)


def test_trials() -> None:
    """One for each fraction, and one healed."""
    bare = Chain(*(each for each in REMOVAL.links if each.__name__ != "heal"))
    assert [Removal(chain, (0.1, 0.2)).trials for chain in (bare, REMOVAL)] == [2, 3]


@pytest.mark.parametrize(("chain", "fractions"), [(None, (0.1,)), (REMOVAL, ())])
def test_nothing_to_try(chain: Chain | None, fractions: tuple[float, ...]) -> None:
    assert removal_of(chain, fractions) is None


def test_name() -> None:
    plan = Plan("obs", "neurons", {}, (64, 48))
    found = named(ALLOCATION, plan, healed=True)
    assert [each.name for each in found.candidates] == ["48 of 64 neurons, healed, allocated"]
    assert found.current.num_bytes == 100


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [sensitivity(), allocate()], "the removal of select has no prune link"),
        (lambda: [*REMOVAL.links[:4], allocate()], "has no sensitivity link"),
        (lambda: [*REMOVAL.links, quantize()], "put it in the body of select"),
        (lambda: [*REMOVAL.links, prune(pattern="layers")], "has 2 links prune; keep one"),
        (
            lambda: [prune(pattern="layers", sparsity=0.1), sensitivity(), allocate()],
            r"prune\(sparsity=0.1\) in the removal of select: leave it out",
        ),
        (
            lambda: [prune(pattern="2:4"), sensitivity(), allocate()],
            "'2:4'.* saves no bytes; use neurons",
        ),
    ],
)
def test_chains_refused(make: Callable[[], list[object]], message: str) -> None:
    with pytest.raises(ChainError, match=message):
        check_removal(Chain(*make()))
