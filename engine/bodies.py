"""What a chain must contain that is a setting of a link, such as the body of waves or of select."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ChainError
from .chain import Chain
from .rebuilding import links_with_settings

_JUDGE = "validate"


def require_body(
    body: Chain, *, of: str, needs: Mapping[str, str], outside: Mapping[str, str]
) -> None:
    """Refuse a body that its link cannot run.

    Args:
        of: name of the link that runs the body.
        needs: names of the links it must contain, ``validate`` among them, each with what does not
            happen without it.
        outside: names of the links it must not contain, each with where it belongs instead:
            ``before``, ``after`` or ``beside`` the link that runs the body.

    Raises:
        ChainError: a link is missing or does not belong in it, or a link changes the model after
            the last ``validate``.
    """
    links = list(links_with_settings(body))
    names = [each.__name__ for each in links]
    for wanted, why in needs.items():
        if wanted not in names:
            raise ChainError(f"the body of {of} has no {wanted} link, so {why}; add {wanted}()")
    for name, where in outside.items():
        if name in names:
            raise ChainError(f"the body of {of} contains {name}; put it {where} {of}")
    judged = len(names) - 1 - names[::-1].index(_JUDGE)
    late = [each.__name__ for each in links[judged:] if "checkpoint" in each.adds]
    if late:
        raise ChainError(
            f"in the body of {of} {late[-1]} changes the model after {_JUDGE}; put {_JUDGE} last"
        )
