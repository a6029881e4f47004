"""What was done to each linear, gathered while a pass over the blocks goes on, or goes on again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...contexts.plan import LinearPlan


class Planning:
    """Whoever solves linears one after the other and says of each what it did."""

    plans: dict[str, LinearPlan]

    def facts(self) -> Any:
        """The plans so far, for a pass that may be stopped."""
        return {name: asdict(plan) for name, plan in self.plans.items()}

    def recall(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Take up the plans of a pass that was stopped."""
        self.plans.update({name: LinearPlan(**plan) for name, plan in facts.items()})
