"""The typed contexts that flow between links.

Two kinds. What a link **needs** is cumulative (`Scored` holds all that `Profiled` does); what a
link **adds** is only its own keys. ``checkpoint`` is always the model as it now stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from ..checkpoints import Checkpoint
from ..texts import Windows
from .plan import Plan
from .profile import Profile
from .saved import Saved
from .scores import Scores
from .steps import Step
from .verdict import Reference, Verdict


class Empty(TypedDict):
    """Needs nothing. ``history``: records of the links that ran, oldest first."""

    history: NotRequired[tuple[Step, ...]]


class Standing(Empty):
    """A model. ``checkpoint``: as it now stands.

    ``calibration``: text windows to measure inputs on, where there are some.
    """

    checkpoint: Checkpoint
    calibration: NotRequired[Windows]


class Measured(TypedDict):
    """What any link may add: ``metrics`` go into its step record, not into the context."""

    metrics: NotRequired[Mapping[str, Any]]


class Loaded(Empty, Measured):
    """``checkpoint``: the model as it now stands; ``dense``: the one it is judged against."""

    checkpoint: Checkpoint
    dense: Checkpoint


class Texts(Measured):
    """Token windows int64 ``[num_windows, length]`` that never overlap.

    ``calibration``: to measure inputs on; ``healing``: to train on; ``heldout``: to judge on, of
    the same sources.
    """

    calibration: Windows
    healing: Windows
    heldout: Windows


class Calibrating(Texts):
    """``elsewhere``: windows to judge on, of a source that no other part is from."""

    elsewhere: Windows


class Calibrated(Loaded, Texts):
    """A model and text."""


class Profiling(Measured):
    """``profile``: what the calibration text showed."""

    profile: Profile


class Profiled(Calibrated, Profiling):
    """A model, text, and what flows through the one on the other."""


class Scoring(Measured):
    """``scores``: how much load each weight, linear and block carries."""

    scores: Scores


class Scored(Profiled, Scoring):
    """A profiled model whose load is known. ``plan``: what was pruned before, if anything was."""

    plan: NotRequired[Plan]


class Changed(Measured):
    """``checkpoint``: the model as the link leaves it."""

    checkpoint: Checkpoint


class Pruned(Changed):
    """``plan``: what pruning did to every linear."""

    plan: Plan


class Healable(Calibrated):
    """``plan``: what pruning did, where it did; says which blocks are left.

    ``elsewhere``: windows of another source, where there are some.
    """

    plan: NotRequired[Plan]
    elsewhere: NotRequired[Windows]


class Validatable(Calibrated):
    """``reference``: the dense model's run over the held-out text, once it was made.

    ``elsewhere``: windows of another source, where there are some.
    """

    reference: NotRequired[Reference]
    elsewhere: NotRequired[Windows]


class Validated(Measured):
    """``verdict``: the model beside the dense one; ``reference``: the dense run it used."""

    verdict: Verdict
    reference: Reference


class Savable(Loaded):
    """``heldout``, where there is some, is what the saved folder is scored on.

    ``verdict``: the figures in memory, which the saved folder must reproduce. ``calibration``,
    ``healing`` and ``elsewhere`` are named in the saved folder's record.
    """

    calibration: NotRequired[Windows]
    healing: NotRequired[Windows]
    heldout: NotRequired[Windows]
    elsewhere: NotRequired[Windows]
    verdict: NotRequired[Verdict]


class Written(Measured):
    """``saved``: the folder, and what a fresh process measured on it."""

    saved: Saved


class Held(Changed, Validated):
    """``checkpoint``: the lightest model that held; ``verdict``: its own."""
