"""Links, chains and runs.

A **link** is one async function: context in, settings by keyword, added keys out. ``@link`` makes
it a factory that checks settings when called and wiring when composed. A **chain** is a
``modulink.Chain`` that raises its failures, refuses a wrong order before any weight is loaded, and
is itself a link. **Middleware** is any object with modulink's ``before`` and ``after`` and,
optionally, ``failed``, ``replayed``, ``progress`` (not async: it is called from worker threads) and
``ended``. An error in ``before`` stops the link; an error in another hook disables the middleware
with a warning. A **store** keeps the outcomes of links, so that a run can resume where it stopped.

Differences from modulink-py 4.0.3: a failing link raises `LinkError` instead of hiding in
``ctx["exception"]``; a result is awaited if it is awaitable; nothing is written on middleware
objects or link functions, so one object may observe two runs at once. A link rescued by a `connect`
route is reported as ``failed`` and then, with the rescuer's result, as ``after``; between the two
the rescuer is observed like any link.
"""

from .bound import Link
from .chain import Chain, run
from .factories import LinkFactory, link
from .halving import BatchSize, Halved
from .keeping import Outcome, Place, Store, Unfinished, unfinished
from .naming import chain_settings, chains_of, spelled_settings
from .settings import Settings, changed
from .synchronous import run_sync
from .watching import ProgressEvent, announce, in_thread
from .wiring import check_order, every_link

__all__ = [
    "BatchSize",
    "Chain",
    "Halved",
    "Link",
    "LinkFactory",
    "Outcome",
    "Place",
    "ProgressEvent",
    "Settings",
    "Store",
    "Unfinished",
    "announce",
    "chain_settings",
    "chains_of",
    "changed",
    "check_order",
    "every_link",
    "in_thread",
    "link",
    "run",
    "run_sync",
    "spelled_settings",
    "unfinished",
]
