"""Damping: a constant added to the diagonal of the Hessian so that it can be factorised.

H = X'X of few tokens is singular. Solvers add ``damping`` times the mean of its diagonal over live
features (features that were non-zero on at least one token). If the Cholesky factorisation still
fails in floating point, the damping is multiplied by ten, at most three times, and the result
records how often. No other fallback exists: if that does not help, the solver raises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import SettingError, SolverError
from .gram import Gram

MAX_ESCALATIONS = 3
"""How many times `escalate` multiplies the damping by ten before it gives up."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class DampedResult(Generic[T]):
    """What was computed from a damped Hessian, and with how much damping.

    Attributes:
        value: the result, such as a Cholesky factor.
        damping: the damping used, as a fraction of the mean diagonal of H over live features.
        escalations: how many times the damping was multiplied by ten; 0 if the first attempt
            succeeded.
    """

    value: T
    damping: float
    escalations: int


def escalate(gram: Gram, damping: float, attempt: Callable[[float], T | None]) -> DampedResult[T]:
    """Call ``attempt`` with ``damping``, then with ten times as much, until it succeeds.

    Args:
        gram: the Gram matrix, for the error message.
        damping: the first damping to try.
        attempt: takes a damping; returns None if the Hessian is not positive definite with it.

    Raises:
        SettingError: ``damping`` is negative or not finite.
        SolverError: the Hessian is not positive definite after `MAX_ESCALATIONS` escalations.
    """
    require_damping(damping)
    for escalations in range(MAX_ESCALATIONS + 1):
        tried = damping * 10**escalations
        value = attempt(tried)
        if value is not None:
            return DampedResult(value, tried, escalations)
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
    """Return the mean of the diagonal of H over live features; 0 if there are none."""
    num_live = max(int((~gram.dead).sum()), 1)
    return float(gram.diagonal.double().sum()) / num_live
