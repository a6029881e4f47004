"""What a chain must contain that is a setting of a link, such as the body of waves or of select."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ChainError
from .chain import Chain
from .rebuilding import links_with_settings

_JUDGE = "validate"


def require_body(
    body: Chain,
    *,
    of: str,
    needs: Mapping[str, str],
    outside: Mapping[str, str],
    part: str = "body",
) -> None:
    """Refuse a body that its link cannot run.

    Args:
        of: name of the link that runs the body.
        needs: names of the links it must contain, each with what does not happen without it.
        outside: names of the links it must not contain, each with where it belongs instead:
            ``before``, ``after`` or ``beside`` the link that runs the body.
        part: name of the setting that the body is.

    Raises:
        ChainError: a link is missing or does not belong in it, or a link changes the model after
            the last ``validate`` of a body that needs one.
    """
    links = list(links_with_settings(body))
    names = [each.__name__ for each in links]
    for wanted, why in needs.items():
        if wanted not in names:
            raise ChainError(f"the {part} of {of} has no {wanted} link, so {why}; add {wanted}()")
    for name, where in outside.items():
        if name in names:
            raise ChainError(f"the {part} of {of} contains {name}; put it {where} {of}")
    if _JUDGE not in needs:
        return
    judged = len(names) - 1 - names[::-1].index(_JUDGE)
    late = [each.__name__ for each in links[judged:] if "checkpoint" in each.adds]
    if late:
        raise ChainError(
            f"in the body of {of} {late[-1]} changes the model after {_JUDGE}; put {_JUDGE} last"
        )
