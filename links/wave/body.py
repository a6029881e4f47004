"""The chain that every wave runs: what it must hold, and how a wave's own settings get into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from ...engine import Chain, Link
from ...engine.rebuilding import links_with_settings, rebuilt
from ...errors import ChainError
from ..healing.methods import chosen
from ..pruning.unit_sizes import takes_units

# What belongs before the waves, or after them: once for the model, not once a wave.
_OUTSIDE = {
    "load": "before",
    "calibrate": "before",
    "quantize": "after",
    "save": "after",
    "waves": "beside",
}


def check_body(body: Chain) -> Chain:
    """Refuse a chain that waves cannot drive.

    Raises:
        ChainError: it lacks prune or validate, judges the model before it is finished, holds a
            link that is not for every wave, or fixes what waves must set.
    """
    links = list(links_with_settings(body))
    names = [each.__name__ for each in links]
    for wanted, why in (("prune", "nothing would be thinned"), ("validate", "no wave is judged")):
        if wanted not in names:
            raise ChainError(f"the body of waves has no {wanted} link, so {why}; add {wanted}()")
    for name, where in _OUTSIDE.items():
        if name in names:
            raise ChainError(f"the body of waves holds {name}; put it {where} waves")
    changing = [place for place, each in enumerate(links) if "checkpoint" in each.factory.gives]
    if names[::-1].index("validate") > len(names) - 1 - changing[-1]:
        raise ChainError(
            f"in the body of waves {names[changing[-1]]} changes the model after validate judged "
            f"it; put validate last"
        )
    prunes = prunes_of(body)
    for settings in prunes:
        _check_prune(settings)
    if len({takes_units(settings["pattern"]) for settings in prunes}) > 1:
        patterns = ", ".join(settings["pattern"] for settings in prunes)
        raise ChainError(
            f"the body of waves prunes by {patterns}: what is left of units is refitted, which "
            f"wakes the zeros of masks; take one kind, and the mask in waves of its own after it"
        )
    return body


def _check_prune(settings: Mapping[str, Any]) -> None:
    if settings["sparsity"] is not None:
        raise ChainError(
            f"prune(sparsity={settings['sparsity']}) in the body of waves: waves sets the share of "
            f"every wave; leave it out, and set the step or the target of waves"
        )
    if settings.get("regrow") is not None:
        raise ChainError(
            f"prune(regrow={settings['regrow']}) in the body of waves: leave it out, and set "
            f"regrow of waves"
        )
    pattern = settings["pattern"]
    if pattern != "unstructured" and not takes_units(pattern):
        raise ChainError(
            f"prune(pattern='{pattern}') in the body of waves fixes how much goes at once; take "
            f"'unstructured' or a pattern that takes whole units out, or put this prune after waves"
        )


Body = Annotated[Chain, AfterValidator(check_body), WithJsonSchema({"type": "chain"})]


def prunes_of(body: Chain) -> list[Mapping[str, Any]]:
    """The settings of every prune, in running order."""
    return [each.settings for each in links_with_settings(body) if each.__name__ == "prune"]


def bound(
    body: Chain, *, sparsities: Sequence[float], healing: int, regrow: float | None = None
) -> Chain:
    """The body for one wave: each prune to its sparsity, every heal ``healing`` times as long."""
    asked = iter(sparsities)

    def changes(each: Link) -> Mapping[str, Any]:
        if each.__name__ == "prune":
            return {"sparsity": next(asked)} | ({} if regrow is None else {"regrow": regrow})
        if each.__name__ == "heal":
            given = each.settings["epochs"]
            return {"epochs": (given or chosen(each.settings)["epochs"]) * healing}
        return {}

    return rebuilt(body, changes)


def judging(body: Chain) -> Chain:
    """The last validate of the body by itself."""
    judge = [each for each in links_with_settings(body) if each.__name__ == "validate"][-1]
    return Chain(judge, name="judge")
