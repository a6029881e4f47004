"""The whole contract: what a link is, how links become a chain, how a chain runs.

A **link** is one async function: context in, settings by keyword, additions out. ``@link`` makes
it a factory that checks settings when called and wiring when composed. A **chain** is a
``modulink.Chain`` whose failures surface, which refuses a wrong order before any weight is loaded,
and which is itself a link. **Middleware** is any object with modulink's ``before`` and ``after``
and, if it likes, ``failed``, ``replayed``, ``progress`` (not async: it is told from worker
threads) and ``ended``. What fails in ``before`` stops the link; what fails elsewhere is dropped
with a warning. A **store** keeps what links leave, so that a run can go on where it stopped.

Where modulink-py 4.0.3 behaves otherwise: a failing link raises `LinkError` instead of hiding in
``ctx["exception"]``; whatever a link returns is awaited if it can be; nothing is written on
middleware objects or link functions, so one object may watch two runs at once. A link that a
`connect` route rescues is told as ``failed`` and then, with the rescuer's result, as ``after``;
between the two the rescuer is watched as any link is.
"""

from .chain import Chain, run
from .factories import Link, LinkFactory, link
from .keeping import Outcome, Place, Store, Unfinished, unfinished
from .naming import chain_settings, chains_of, spelled_settings
from .watching import Progress, announce, in_thread
from .wiring import check_following, every_link

__all__ = [
    "Chain",
    "Link",
    "LinkFactory",
    "Outcome",
    "Place",
    "Progress",
    "Store",
    "Unfinished",
    "announce",
    "chain_settings",
    "chains_of",
    "check_following",
    "every_link",
    "in_thread",
    "link",
    "run",
    "spelled_settings",
    "unfinished",
]
