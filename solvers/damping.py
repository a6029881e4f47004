"""What is added to a Hessian's diagonal, and when more of it than was asked.

H = X'X of few tokens is singular. A share of its mean diagonal over live features mends that; where
a factorisation still fails in float arithmetic the share is raised tenfold, at most three times,
and the result says how often. Nothing here turns a method into another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import SettingError, SolverError
from .gram import Gram

MAX_ESCALATIONS = 3

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Damped(Generic[T]):
    """What came of a damped Hessian.

    Attributes:
        made: what was made of it.
        damping: the damping used, relative to the mean of H's diagonal over live features.
        escalations: how often the damping had to be raised tenfold; 0 when it held at once.
    """

    made: T
    damping: float
    escalations: int


def escalate(gram: Gram, damping: float, attempt: Callable[[float], T | None]) -> Damped[T]:
    """Return what ``attempt`` makes with ``damping``, or with the first tenfold that does.

    ``attempt`` returns None where the Hessian is not positive definite. Raises SettingError for a
    damping below 0, SolverError if it never is.
    """
    require_damping(damping)
    for escalations in range(MAX_ESCALATIONS + 1):
        tried = damping * 10**escalations
        made = attempt(tried)
        if made is not None:
            return Damped(made, tried, escalations)
    raise SolverError(
        f"Hessian of width {gram.width} over {gram.num_tokens} tokens is not positive definite at "
        f"damping {damping:g} nor, raised tenfold {MAX_ESCALATIONS} times, at {tried:g}; "
        "calibrate on more tokens or set a higher damping"
    )


def require_damping(damping: float) -> None:
    """Raise SettingError unless ``damping`` is finite and at least 0."""
    if not 0 <= damping < float("inf"):
        raise SettingError(f"damping {damping} is out of range; give a finite number of at least 0")


def mean_live_diagonal(gram: Gram) -> float:
    """Return the mean diagonal over live features, 0 if there are none."""
    num_live = max(int((~gram.dead).sum()), 1)
    return float(gram.diagonal.double().sum()) / num_live
