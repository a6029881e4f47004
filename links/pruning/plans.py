"""Records of pruned linears, collected during a pass over the blocks that may be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...contexts.plan import LinearPlan


class Planning:
    """A solver of linears that records what it did to each."""

    plans: dict[str, LinearPlan]

    def facts(self) -> Any:
        """The plans so far, to resume from."""
        return {name: asdict(plan) for name, plan in self.plans.items()}

    def recall(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the plans of an interrupted pass."""
        self.plans.update({name: LinearPlan(**plan) for name, plan in facts.items()})
