"""Smaller models as rivals within the same budget: remove, allocate on what is left, and judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from ...contexts.allocation import Allocation
from ...contexts.cost import Meter
from ...contexts.plan import Plan
from ...engine import Chain, Link
from ...engine.bodies import require_body
from ...engine.rebuilding import links_with_settings, rebuilt
from ...errors import ChainError, SettingError
from ..pruning.settings import PruneSettings, takes_units
from ..wave.body import prunes_of
from .trial import Trial, try_candidate

_NEEDS = {
    "prune": "nothing is removed",
    "sensitivity": "the smaller model has no estimates",
    "allocate": "the smaller model is not stored within the budget",
}
# Links that run once for the model, or for every candidate, and where they belong.
_OUTSIDE = {
    "load": "before",
    "calibrate": "before",
    "quantize": "in the body of",
    "validate": "in the body of",
    "save": "after",
    "waves": "before",
    "select": "beside",
}

# Budgets that leave a smaller model other bytes: its KV cache is smaller, and it runs faster.
_OWN_BUDGETS = ("memory", "speed")


def check_removal(removal: Chain) -> Chain:
    """Refuse a chain that cannot make a smaller model and its allocation.

    Raises:
        ChainError: it lacks a link or has one that does not belong in it, or it has not exactly one
            prune, of whole units and without a sparsity.
    """
    require_body(removal, of="select", part="removal", needs=_NEEDS, outside=_OUTSIDE)
    prunes = prunes_of(removal)
    if len(prunes) > 1:
        raise ChainError(f"the removal of select has {len(prunes)} links prune; keep one")
    if prunes[0].sparsity is not None:
        raise ChainError(
            f"prune(sparsity={prunes[0].sparsity}) in the removal of select: leave it out, and set "
            f"remove of select"
        )
    if not takes_units(prunes[0].pattern):
        raise ChainError(
            f"prune(pattern='{prunes[0].pattern}') in the removal of select saves no bytes; use "
            f"neurons, groups, experts or layers"
        )
    return removal


RemovalChain = Annotated[Chain, AfterValidator(check_removal), WithJsonSchema({"type": "chain"})]


@dataclass(frozen=True)
class Removal:
    """What is tried beside the candidates of the whole model.

    Attributes:
        chain: removes units, and allocates on the smaller model.
        fractions: of the units to remove, a candidate each.
    """

    chain: Chain
    fractions: tuple[float, ...]

    @property
    def heals(self) -> bool:
        """Whether the best of them is tried again, healed."""
        return any(each.__name__ == "heal" for each in links_with_settings(self.chain))

    @property
    def trials(self) -> int:
        """How many candidates it adds."""
        return len(self.fractions) + self.heals

    def bound(self, fraction: float, allocation: Allocation, *, healed: bool) -> Chain:
        """The chain for one fraction, within the budget of the allocation."""

        def changes(each: Link[Any]) -> Mapping[str, Any]:
            if isinstance(each.settings, PruneSettings):
                return {"sparsity": fraction}
            if each.__name__ == "allocate":
                if any(getattr(each.settings, name, None) for name in _OWN_BUDGETS):
                    return {}
                return {"bytes": allocation.budget_bytes, "ratio": None, "bits": None}
            return {}

        made = rebuilt(self.chain, changes)
        kept = [each for each in made.links if healed or each.__name__ != "heal"]
        return Chain(*kept, name=made.__name__)


def check_fractions(removal: Chain | None, fractions: tuple[float, ...]) -> None:
    """Refuse fractions that are given twice, or without a chain that removes them.

    Raises:
        SettingError: naming them.
    """
    if fractions and removal is None:
        raise SettingError(
            f"select(remove={list(fractions)}) has no removal; give the chain that removes, such "
            f"as removal=Chain(profile(), score(), prune(pattern='neurons'), sensitivity(), "
            f"allocate())"
        )
    if len(set(fractions)) < len(fractions):
        raise SettingError(f"select(remove={list(fractions)}) names a fraction twice; give it once")


def removal_of(chain: Chain | None, fractions: tuple[float, ...]) -> Removal | None:
    """What the settings ask for; None for nothing."""
    return Removal(chain, fractions) if chain is not None and fractions else None


def require_budget(allocation: Allocation, fractions: tuple[float, ...]) -> None:
    """Refuse removal beside a search for the smallest size.

    Raises:
        SettingError: the allocation is one for a largest rise.
    """
    if fractions and allocation.max_rise is not None:
        raise SettingError(
            f"select(remove={list(fractions)}) compares models within one budget, and "
            f"allocate(rise={allocation.max_rise}) has none; give a budget, such as bytes"
        )


def named(allocation: Allocation, plan: Plan, *, healed: bool = False) -> Allocation:
    """The first candidate of a smaller model alone, with what was removed in its name."""
    before, after = plan.units or (0, 0)
    first = allocation.candidates[0]
    name = f"{after} of {before} {plan.pattern}{', healed' if healed else ''}, {first.name}"
    return replace(allocation, candidates=(replace(first, name=name),), place=0)


async def try_removed(
    ctx: Mapping[str, Any], body: Chain, removal: Removal, fraction: float, *, healed: bool = False
) -> Trial:
    """Remove a fraction, allocate on the smaller model, and run the body on its first candidate.

    Raises:
        LinkError: removal failed, or a link of the body for a reason that concerns all candidates.
    """
    meter = Meter()
    smaller = await removal.bound(fraction, ctx["allocation"], healed=healed).run(dict(ctx))
    allocation = named(smaller["allocation"], smaller["plan"], healed=healed)
    trial = await try_candidate({**smaller, "allocation": allocation}, body, 0, meter=meter)
    steps = tuple(smaller["history"][len(ctx.get("history", ())) :])
    return replace(trial, steps=(*steps, *trial.steps))
