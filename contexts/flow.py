"""The typed contexts that flow between links.

What a link **needs** is cumulative (`Scored` has all keys of `Profiled`); what a link **adds** is
only its own keys. ``checkpoint`` is always the current model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from ..checkpoints import Checkpoint
from ..texts import Windows
from .allocation import Allocation
from .placement import Placement
from .plan import Plan
from .profile import Profile
from .saved import Saved
from .scores import Scores
from .sensitivity import Sensitivity
from .steps import Step
from .verdict import Reference, Verdict


class Empty(TypedDict):
    """Needs nothing.

    ``history``: records of the links that ran, oldest first. ``placement``: optional, the device to
    compute on; without it the accelerator of the machine, or the CPU.
    """

    history: NotRequired[tuple[Step, ...]]
    placement: NotRequired[Placement]


class Opened(Empty):
    """``checkpoint``: the current model; ``dense``: optional, the original one."""

    checkpoint: Checkpoint
    dense: NotRequired[Checkpoint]


class WithModel(Opened):
    """A context with a model.

    ``calibration``: optional windows to calibrate on; ``allocation``: optional, the grids that
    quantize applies.
    """

    calibration: NotRequired[Windows]
    allocation: NotRequired[Allocation]


class Measured(TypedDict):
    """``metrics``, which any link may return, go into its step record, not into the context."""

    metrics: NotRequired[Mapping[str, Any]]


class Loaded(Empty, Measured):
    """``checkpoint``: the current model; ``dense``: the original one it is compared with."""

    checkpoint: Checkpoint
    dense: Checkpoint


class Texts(Measured):
    """Token windows, int64 ``[num_windows, length]``, that never overlap.

    ``calibration``: to measure inputs on; ``healing``: to train on; ``heldout``: to evaluate on, of
    the same sources.
    """

    calibration: Windows
    healing: Windows
    heldout: Windows


class Calibrating(Texts):
    """``elsewhere``: windows to evaluate on, of a source that no other part is from."""

    elsewhere: Windows


class Calibrated(Loaded, Texts):
    """A model and text."""


class Profiling(Measured):
    """``profile``: statistics of the calibration pass."""

    profile: Profile


class Profiled(Calibrated, Profiling):
    """A model, text, and the statistics of the model's inputs on that text."""


class Scoring(Measured):
    """``scores``: importance of every weight, linear and block."""

    scores: Scores


class Scored(Profiled, Scoring):
    """A profiled and scored model. ``plan``: what earlier pruning did, if any."""

    plan: NotRequired[Plan]


class Sensitive(Measured):
    """``sensitivity``: estimated loss from storing each linear in fewer bits."""

    sensitivity: Sensitivity


class Allocatable(Opened):
    """``sensitivity``: estimated loss from storing each linear in fewer bits."""

    sensitivity: Sensitivity


class Allocating(Measured):
    """``allocation``: ways to store the model within a budget of bytes."""

    allocation: Allocation


class Changed(Measured):
    """``checkpoint``: the model as the link leaves it."""

    checkpoint: Checkpoint


class Pruned(Changed):
    """``plan``: what pruning did to every linear."""

    plan: Plan


class Healable(Calibrated):
    """``plan``: what pruning did, if it ran; records which blocks are left.

    ``elsewhere``: optional windows of another source.
    """

    plan: NotRequired[Plan]
    elsewhere: NotRequired[Windows]


class Validatable(Calibrated):
    """``reference``: the original model's outputs on these texts, if computed before.

    ``elsewhere``: optional windows of another source.
    """

    reference: NotRequired[Reference]
    elsewhere: NotRequired[Windows]


class Validated(Measured):
    """``verdict``: comparison with the original on each text; ``reference``: its outputs."""

    verdict: Verdict
    reference: Reference


class Savable(Loaded):
    """``heldout``, ``elsewhere``: optional windows that the saved folder is evaluated on.

    ``verdict``: figures of the model in memory, which the saved folder must reproduce.
    ``calibration`` and ``healing`` are named in the saved folder's record.
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
    """``checkpoint``: the model that was kept; ``verdict``: its own."""


class Selectable(Validatable):
    """``allocation``: the candidates to build and judge."""

    allocation: Allocation


class Selected(Held):
    """``allocation``: the same candidates, at the place of the one that was kept."""

    allocation: Allocation


class Partial(TypedDict, total=False):
    """A context at any point of a chain: every key may be missing. For ``check`` hooks."""

    checkpoint: Checkpoint
    dense: Checkpoint
    calibration: Windows
    healing: Windows
    heldout: Windows
    elsewhere: Windows
    profile: Profile
    scores: Scores
    sensitivity: Sensitivity
    allocation: Allocation
    plan: Plan
    verdict: Verdict
    reference: Reference
    saved: Saved
    placement: Placement
    history: tuple[Step, ...]
