"""Every error bird-bone raises on purpose, in one tree.

A message names the thing, the value found and the fix. The command line prints it without a
traceback. Any other exception is a bug of birdbone and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches


class BirdboneError(Exception):
    """Root of the tree: catch this to catch every deliberate refusal."""


class SettingError(BirdboneError, ValueError):
    """A setting or argument has an unknown name, a wrong type or a value out of range."""


class ChainError(BirdboneError):
    """A link would lack a context key that it needs, or a link broke the contract."""


class DataError(BirdboneError):
    """The text given cannot serve: empty, too short, binary, or its parts overlap."""


class LittleTextWarning(UserWarning):
    """The calibration text is less than the widths of the model's linears call for."""


class ModelError(BirdboneError):
    """The model cannot be found, read, or seen as a stack of blocks."""


class CheckpointError(BirdboneError):
    """A checkpoint on disk or in memory is damaged, incomplete or of a refused kind."""


class SolverError(BirdboneError):
    """The mathematics of one weight matrix failed: not positive definite, not finite, unfit."""


class NumericsError(BirdboneError):
    """NaN or infinity in weights, activations or a loss."""


class ResourceError(BirdboneError):
    """Not enough memory or disk for what was asked."""


class RunFolderError(BirdboneError):
    """A run folder is in use, invalid or not writable, or a value cannot be stored in it."""


class GateError(BirdboneError):
    """A measured figure broke the bound the user set; the result is not good enough."""


class ProofError(BirdboneError):
    """The saved folder, opened by plain transformers, does not score as it did in memory."""


class HubError(BirdboneError):
    """The Hugging Face hub cannot be reached, refuses, or holds other files than were sent."""


class MissingExtraError(BirdboneError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class RankError(BirdboneError):
    """On several ranks, another rank failed or is gone.

    Attributes:
        rank: which one.
        failed: whether it said why; if not it is gone.
    """

    def __init__(self, rank: int, reason: str, failed: bool = False) -> None:
        super().__init__(f"rank {rank} {'failed: ' if failed else ''}{reason}")
        self.rank, self.reason, self.failed = rank, reason, failed

    @property
    def parts(self) -> tuple[int, str, bool]:
        """The arguments it is made of."""
        return self.rank, self.reason, self.failed

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes: by default an exception is rebuilt from its message alone."""
        return type(self), self.parts


class Cancelled(BirdboneError):
    """The surrounding task was cancelled; raised inside worker threads at the next block."""


class LinkError(BirdboneError):
    """A link failed: its name, its settings and, as ``__cause__``, the reason.

    Attributes:
        link: the link's name.
        settings: the validated settings it ran with; empty for a plain function.
    """

    def __init__(self, link: str, settings: Mapping[str, object], cause: BaseException) -> None:
        super().__init__(f"link '{link}' failed: {_reason(cause)}")
        self.link = link
        self.settings = dict(settings)
        self.__cause__ = cause

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes: by default an exception is rebuilt from its message alone."""
        return type(self), (self.link, self.settings, self.__cause__)


def _reason(cause: BaseException) -> str:
    """Our own messages stand alone; any other needs its type: "'scores'" is a KeyError."""
    text = str(cause)
    if not isinstance(cause, BirdboneError):
        text = f"{type(cause).__name__}: {text}" if text else type(cause).__name__
    return "; ".join([text, *getattr(cause, "__notes__", ())])


def did_you_mean(found: str, choices: Iterable[str]) -> str:
    """The hint for an unknown name: the most similar known name, or all of them."""
    names = sorted(choices)
    near = get_close_matches(found, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names) or 'none'}"


def first_names(names: Sequence[str], shown: int = 3) -> str:
    """The first of several names for a message; an ellipsis stands for the rest."""
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
