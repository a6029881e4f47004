"""What a model's class does to weights that transformers has just read from files.

After loading, transformers initialises every module. The functions it draws values with skip
tensors that were read, but the code of some classes goes further: it reads the ``weight`` of a
linear, which a packed one does not have, so that loading fails; or it writes to a tensor that was
read, as Youtu does to the embedding of the padding token. Here the initialisation runs on the meta
device, with every parameter marked as read and no linear's weight there until it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from ...checkpoints import Checkpoint
from .config import has_code
from .empty_model import empty_model
from .transformers_errors import REFUSED

_READ = "_is_hf_initialized"  # marks tensors that transformers read, and modules that are done


@dataclass(frozen=True)
class Initialising:
    """What the initialisation of a class does to tensors that were read.

    Attributes:
        reads: names of the weights of linears that it reads.
        writes: names of the parameters that it writes to, with those tied to them.
    """

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


def initialising(checkpoint: Checkpoint) -> Initialising:
    """What the class of a checkpoint's model does, cached by config.

    Code that cannot run without values is followed as far as it runs.
    """
    if has_code(checkpoint):
        return _watched(empty_model(checkpoint))
    return _of_config(json.dumps(dict(checkpoint.config)))


@lru_cache(maxsize=64)
def _of_config(config: str) -> Initialising:
    return _watched(empty_model(Checkpoint(json.loads(config), {})))


def initialised(checkpoint: Checkpoint, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters as they are once transformers has loaded the model; ``values`` are not changed."""
    model = empty_model(checkpoint)
    for name, value in values.items():
        place, _, leaf = name.rpartition(".")
        held = nn.Parameter(value.clone(), requires_grad=False)
        model.get_submodule(place)._parameters[leaf] = held
    with _as_loaded(model):
        model.initialize_weights()
    return {name: model.get_parameter(name).detach() for name in values}


def _watched(model: PreTrainedModel) -> Initialising:
    names = {id(module): path for path, module in model.named_modules()}
    reads: set[str] = set()
    with _as_loaded(model), _Writes(model) as written:
        linears = _without_weights(model)
        while (asked := _asked(model)) is not None and id(asked) in linears:
            asked._parameters["weight"] = linears.pop(id(asked))
            reads.add(f"{names[id(asked)]}.weight")
    return Initialising(frozenset(reads), frozenset(written.names))


def _without_weights(model: PreTrainedModel) -> dict[int, nn.Parameter | None]:
    """Remove the weight of every linear, as packing does; returns them by the linear's id."""
    return {
        id(module): module._parameters.pop("weight")
        for module in model.modules()
        if isinstance(module, nn.Linear)
    }


def _asked(model: PreTrainedModel) -> Any:
    """Initialise until a linear's missing weight is read: that linear, None if there is none.

    Modules that are done are marked by transformers, so that the next call goes on from there.
    """
    try:
        model.initialize_weights()
    except AttributeError as error:
        return error.obj if error.name == "weight" else None
    except REFUSED:
        return None
    return None


@contextmanager
def _as_loaded(model: PreTrainedModel) -> Iterator[None]:
    """No module initialised, and every parameter marked as read; random numbers leave no trace."""
    for module in model.modules():
        module.__dict__.pop(_READ, None)
    for parameter in model.parameters():
        setattr(parameter, _READ, True)
    with torch.random.fork_rng(devices=[]):
        yield


class _Writes(TorchDispatchMode):
    """Records which parameters are written to.

    Attributes:
        names: of those, so far.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()
        self._names: dict[int, set[str]] = {}
        for name, held in model.named_parameters():  # tied ones have one storage
            self._names.setdefault(_storage(held), set()).add(name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for argument, given in zip(func._schema.arguments, args, strict=False):
            if argument.is_write and isinstance(given, Tensor):
                self.names |= self._names.get(_storage(given), set())
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
