"""The chain that builds and judges every candidate: what it must contain."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from ...engine import Chain
from ...engine.bodies import require_body

_NEEDS = {"quantize": "no candidate is built", "validate": "none is judged"}
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
    require_body(body, of="select", needs=_NEEDS, outside=_OUTSIDE)
    return body


SelectBody = Annotated[Chain, AfterValidator(check_select_body), WithJsonSchema({"type": "chain"})]
