"""The chain that every wave runs: what it must contain, and the settings a wave changes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from ...engine import Chain, Link
from ...engine.bodies import require_body
from ...engine.rebuilding import links_with_settings, rebuilt
from ...errors import ChainError
from ..healing.settings import HealSettings, chosen
from ..pruning.settings import PruneSettings, takes_units

_NEEDS = {"prune": "nothing is pruned", "validate": "no wave is evaluated"}
# Links that run once for the model instead of once per wave, and where they belong.
_OUTSIDE = {
    "load": "before",
    "calibrate": "before",
    "quantize": "after",
    "save": "after",
    "waves": "beside",
}


def check_body(body: Chain) -> Chain:
    """Refuse a chain that waves cannot run.

    Raises:
        ChainError: it lacks prune or validate, validates the model before it is finished, contains
            a link that does not belong in a wave, or fixes a setting that waves must set.
    """
    require_body(body, of="waves", needs=_NEEDS, outside=_OUTSIDE)
    prunes = prunes_of(body)
    for settings in prunes:
        _check_prune(settings)
    if len({takes_units(settings.pattern) for settings in prunes}) > 1:
        patterns = ", ".join(settings.pattern for settings in prunes)
        raise ChainError(
            f"the body of waves prunes by {patterns}: removing units refits the remaining weights, "
            f"which overwrites the zeros of masks; use one kind, and masks in waves of their own "
            f"after it"
        )
    return body


def _check_prune(settings: PruneSettings) -> None:
    if settings.sparsity is not None:
        raise ChainError(
            f"prune(sparsity={settings.sparsity}) in the body of waves: waves sets the sparsity of "
            f"every wave; leave it out, and set the step or the target of waves"
        )
    if settings.regrow is not None:
        raise ChainError(
            f"prune(regrow={settings.regrow}) in the body of waves: leave it out, and set regrow "
            f"of waves"
        )
    pattern = settings.pattern
    if pattern != "unstructured" and not takes_units(pattern):
        raise ChainError(
            f"prune(pattern='{pattern}') in the body of waves fixes the sparsity; use "
            f"'unstructured' or a pattern that removes whole units, or put this prune after waves"
        )


Body = Annotated[Chain, AfterValidator(check_body), WithJsonSchema({"type": "chain"})]


def prunes_of(body: Chain) -> list[PruneSettings]:
    """The settings of every prune, in running order."""
    every = (each.settings for each in links_with_settings(body))
    return [settings for settings in every if isinstance(settings, PruneSettings)]


def bound(
    body: Chain, *, sparsities: Sequence[float], healing: int, regrow: float | None = None
) -> Chain:
    """The body for one wave: each prune with its sparsity, each heal ``healing`` times as long."""
    remaining = iter(sparsities)

    def changes(each: Link[Any]) -> Mapping[str, Any]:
        if isinstance(each.settings, PruneSettings):
            return {"sparsity": next(remaining)} | ({} if regrow is None else {"regrow": regrow})
        if isinstance(each.settings, HealSettings):
            return {"epochs": chosen(each.settings).epochs * healing}
        return {}

    return rebuilt(body, changes)


def judging(body: Chain) -> Chain:
    """The last validate of the body, as a chain of its own."""
    judge = [each for each in links_with_settings(body) if each.__name__ == "validate"][-1]
    return Chain(judge, name="judge")
