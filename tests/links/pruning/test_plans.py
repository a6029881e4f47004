"""Plans of a pass that was stopped are restored as they were."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from birdbone.contexts.plan import LinearPlan
from birdbone.links.pruning.plans import Planning

fractions = st.floats(0, 1)
plans = st.builds(
    LinearPlan,
    sparsity=fractions,
    relative_error=fractions,
    damping=st.none() | fractions,
    borrowed_tokens=st.integers(0, 999),
    zeros_before=st.integers(0, 999),
    regrown=st.integers(0, 999),
)


class Solver(Planning):
    """A solver that recorded some plans."""

    def __init__(self, **found: LinearPlan) -> None:
        self.plans = dict(found)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["q_proj", "k_proj", "up_proj"]), plans))
def test_there_and_back(found: dict[str, LinearPlan]) -> None:
    """Through JSON, in which the work in progress is kept."""
    fresh = Solver()
    fresh.recall(json.loads(json.dumps(Solver(**found).facts())))
    assert fresh.plans == found


def test_what_was_done_since_stays() -> None:
    solver = Solver(up_proj=LinearPlan(0.5, 0.1))
    solver.recall(Solver(q_proj=LinearPlan(0.25, 0.2)).facts())
    assert solver.plans == {"up_proj": LinearPlan(0.5, 0.1), "q_proj": LinearPlan(0.25, 0.2)}


def test_facts_do_not_follow_the_solver() -> None:
    """What is being saved is what was known when it was asked for."""
    solver = Solver(up_proj=LinearPlan(0.5, 0.1))
    facts = solver.facts()
    solver.plans["q_proj"] = LinearPlan(0.25, 0.2)
    assert list(facts) == ["up_proj"]


def test_facts_of_an_older_version() -> None:
    """Fields that were added since have their defaults."""
    solver = Solver()
    solver.recall({"up_proj": {"sparsity": 0.5, "relative_error": 0.1}})
    assert solver.plans["up_proj"] == LinearPlan(0.5, 0.1, None, 0, 0, 0)
