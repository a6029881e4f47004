"""The chain that builds and judges every candidate: what it must contain."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from ...engine import Chain
from ...engine.rebuilding import links_with_settings
from ...errors import ChainError

# Links that run once for the model instead of once per candidate, and where they belong.
_OUTSIDE = {
    "load": "before",
    "calibrate": "before",
    "sensitivity": "before",
    "allocate": "before",
    "prune": "before",
    "save": "after",
    "waves": "before",
    "select": "beside",
}


def check_select_body(body: Chain) -> Chain:
    """Refuse a chain that select cannot run.

    Raises:
        ChainError: it lacks quantize or validate, validates the model before it is finished, or
            contains a link that does not belong in it.
    """
    links = list(links_with_settings(body))
    names = [each.__name__ for each in links]
    for wanted, why in (("quantize", "no candidate is built"), ("validate", "none is judged")):
        if wanted not in names:
            raise ChainError(f"the body of select has no {wanted} link, so {why}; add {wanted}()")
    for name, where in _OUTSIDE.items():
        if name in names:
            raise ChainError(f"the body of select contains {name}; put it {where} select")
    changing = [place for place, each in enumerate(links) if "checkpoint" in each.adds]
    if names[::-1].index("validate") > len(names) - 1 - changing[-1]:
        raise ChainError(
            f"in the body of select {names[changing[-1]]} changes the model after validate; put "
            f"validate last"
        )
    return body


SelectBody = Annotated[Chain, AfterValidator(check_select_body), WithJsonSchema({"type": "chain"})]
