"""State that blocks pass to later blocks in addition to hidden states.

Examples are keys and values that later layers reuse (Gemma 3n, Gemma 4) and the token indices of
sparse attention (DeepSeek V3.2 and similar models). A block either returns them, and the model
passes them to a later block as arguments, or writes them into a container that several blocks
receive. Both are recognised by identity while calls are recorded, and restored during replay.

The state belongs to a stream of hidden states, not to a call: the same calls are replayed with the
hidden states of several models. It is therefore stored with the tensor of hidden states that the
last block returned. A block that is run again on the same hidden states gets the same state.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import ModelError

_CONTAINERS = (dict, list, UserDict)


@dataclass(frozen=True)
class Returned:
    """Placeholder in recorded arguments for an output of an earlier block.

    Attributes:
        block: index of that block.
        path: indices into its output, outermost first.
    """

    block: int
    path: tuple[int, ...]


@dataclass(frozen=True)
class Container:
    """Placeholder in recorded arguments for a container that blocks may write to.

    Attributes:
        number: index among the containers of a run, in the order of the calls.
        contents: a copy of its contents before any block ran.
    """

    number: int
    contents: Any = field(compare=False)


Placeholder = Returned | Container
_states: WeakIdKeyDictionary = WeakIdKeyDictionary()


@dataclass(frozen=True)
class Layout:
    """How the blocks of a model return their output.

    Attributes:
        kind: tuple or list, hidden states first; None if they return only hidden states.
        extras: the other outputs, with zeros in place of tensors.
        axes: which axes of the hidden states are the batch and the length.
    """

    kind: type | None = None
    extras: tuple[Any, ...] = ()
    axes: tuple[int, int] = (0, 1)

    @classmethod
    def of(cls, output: Any) -> Layout:
        """The layout of an output of a block."""
        if not isinstance(output, (tuple, list)):
            return cls()
        return cls(type(output), tuple(_map(torch.zeros_like, each) for each in output[1:]))

    def output(self, hidden: Tensor, extras: tuple[Any, ...] | None = None) -> Any:
        """An output with the given hidden states."""
        if self.kind is None:
            return hidden
        return self.kind((hidden, *(self.extras if extras is None else extras)))


@dataclass
class Recorder:
    """Finds shared state among the arguments of the blocks in one run."""

    layout: Layout
    _stand_ins: dict[int, tuple[Tensor, Returned]] = field(default_factory=dict)
    _containers: dict[int, tuple[Any, Container]] = field(default_factory=dict)

    def output(self, hidden: Tensor, block: int) -> Any:
        """The output of a block while calls are recorded: ``hidden`` and new tensors."""
        extras = tuple(
            self._marked(each, Returned(block, (place,)))
            for place, each in enumerate(self.layout.extras, 1)
        )
        return self.layout.output(hidden, extras)

    def reference(self, value: Any) -> Placeholder | None:
        """The placeholder for a value in recorded arguments; None if it is not shared state."""
        if isinstance(value, Tensor):
            marked = self._stand_ins.get(id(value))
            return None if marked is None else marked[1]
        if isinstance(value, _CONTAINERS):
            if id(value) not in self._containers:
                found = Container(len(self._containers), copy.copy(value))
                self._containers[id(value)] = value, found  # kept, so that the id stays taken
            return self._containers[id(value)][1]
        return None

    def _marked(self, extra: Any, place: Returned) -> Any:
        """The same layout with new tensors that can be recognised by identity."""
        if isinstance(extra, (tuple, list)):
            return type(extra)(
                self._marked(each, Returned(place.block, (*place.path, index)))
                for index, each in enumerate(extra)
            )
        if not isinstance(extra, Tensor):
            return extra
        stand_in = extra.clone()
        self._stand_ins[id(stand_in)] = stand_in, place
        return stand_in


class State:
    """The state that blocks have shared so far in one stream of hidden states."""

    def __init__(self, values: Mapping[Placeholder, Any]) -> None:
        self._before = values
        self._values = dict(values)

    @classmethod
    def of(cls, hidden: Tensor, *, block: int) -> State:
        """The state that belongs to the input of a block.

        Raises:
            ModelError: it is not known.
        """
        if block and hidden not in _states:
            raise ModelError(
                "the model's blocks pass on more than hidden states, and what was passed to block "
                f"{block} is not known; it can only be run from its first block on"
            )
        return cls(_states.get(hidden, {}))

    def fill(self, value: Any) -> Any:
        """Recorded arguments with placeholders replaced by the state.

        Raises:
            ModelError: a block that should have returned some of it was not run.
        """
        if isinstance(value, tuple):
            return tuple(self.fill(each) for each in value)
        if isinstance(value, Container):
            # The block writes into a copy, so that it can be run again on the original.
            contents = self._before.get(value, value.contents)
            self._values[value] = copy.copy(contents)
            return self._values[value]
        if not isinstance(value, Returned):
            return value
        if value not in self._before:
            raise ModelError(
                f"block {value.block} passes on more than hidden states to later blocks, so it "
                f"cannot be left out"
            )
        return self._before[value]

    def leave(
        self, hidden: Tensor, output: Any, block: int, passed_on: frozenset[Returned]
    ) -> None:
        """Store the state with the output of a block."""
        for reference in passed_on:
            if reference.block == block:
                self._values[reference] = _at(output, reference.path)
        _states[hidden] = self._values


def carry_state(source: Tensor, target: Tensor) -> Tensor:
    """Give ``target``, a conversion of ``source`` to another dtype, the same state."""
    if target is not source and source in _states:
        _states[target] = _states[source]
    return target


def has_state(hidden: Tensor) -> bool:
    """Whether these hidden states have shared state."""
    return hidden in _states


def placeholders_in(value: Any) -> set[Placeholder]:
    """Every placeholder in recorded arguments."""
    if isinstance(value, tuple):
        return {found for each in value for found in placeholders_in(each)}
    return {value} if isinstance(value, (Returned, Container)) else set()


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_map(change, each) for each in value)
    return change(value) if isinstance(value, Tensor) else value


def _at(output: Any, path: tuple[int, ...]) -> Any:
    for place in path:
        output = output[place]
    return output
