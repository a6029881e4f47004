"""Encoding context values as JSON plus tensors, and back: a closed list of kinds, never pickle.

JSON values stay as they are. Every other value becomes an object that names its kind: ``{"tuple":
[...]}``, ``{"map": [[key, value], ...]}``, ``{"float": "nan"}``, ``{"path": "..."}``, ``{"tensor":
entry}``, ``{"checkpoint": id, ...}``, ``{"record": name, "fields": {...}}``. Records are the frozen
dataclasses of `contexts` and those registered with `storable`. Decoding calls no other
constructors.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache, singledispatchmethod
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model
from torch import Tensor

from .. import contexts
from ..checkpoints import Checkpoint
from ..errors import RunFolderError

T = TypeVar("T", bound=type)

_OURS = __name__.split(".")[0]
_records: dict[str, type] = {}


class Unstorable(Exception):
    """A value that cannot be stored; the message says where it is and what type it has."""


def storable(record: T) -> T:
    """Class decorator that allows run folders to store a frozen dataclass.

    Its fields must be of storable kinds. It is found again by its module and name.

    Raises:
        RunFolderError: the class is not a frozen dataclass.
    """
    if not getattr(getattr(record, "__dataclass_params__", None), "frozen", False):
        raise RunFolderError(
            f"{record.__name__} is not a frozen dataclass; write @dataclass(frozen=True)"
        )
    _records[_name(record)] = record
    return record


def _name(record: type) -> str:
    return f"{record.__module__}.{record.__qualname__}"


def _register_own_records() -> None:
    """Register every dataclass that the modules of `contexts` define or import."""
    for module in pkgutil.iter_modules(contexts.__path__, f"{contexts.__name__}."):
        for _, found in inspect.getmembers(import_module(module.name), dataclasses.is_dataclass):
            if isinstance(found, type) and found is not Checkpoint:
                storable(found)


_register_own_records()


def _built(name: str, fields: dict[str, Any]) -> Any:
    """Construct a record by name.

    A file may hold anything, so the fields of birdbone's own records are validated against their
    annotations. Other records must validate their fields themselves.
    """
    record = _records[name]
    if record.__module__.startswith(f"{_OURS}."):
        _as_annotated(record).model_validate(fields)
    return record(**fields)


@cache
def _as_annotated(record: type) -> type[BaseModel]:
    """Return a pydantic model with the annotated fields of a record."""
    hints = get_type_hints(record, include_extras=True)
    fields: dict[str, Any] = {each.name: hints[each.name] for each in dataclasses.fields(record)}
    config = ConfigDict(arbitrary_types_allowed=True, strict=True, protected_namespaces=())
    return create_model(record.__name__, __config__=config, **fields)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Encodes values as trees.

    Attributes:
        tensor: returns the JSON-compatible entry of a tensor.
        checkpoint: returns the id of a checkpoint.
    """

    tensor: Callable[[Tensor], Any]
    checkpoint: Callable[[Checkpoint], str]

    @singledispatchmethod
    def tree(self, value: Any, where: str = "") -> Any:
        """Return ``value`` as a JSON-compatible tree.

        Args:
            value: the value.
            where: path to it, for the error message.

        Raises:
            Unstorable: the value, or a value inside it, is of a kind that cannot be stored.
        """
        if _name(type(value)) not in _records:
            raise Unstorable(f"{where or 'it'} is a {type(value).__name__}")
        fields = {
            field.name: self.tree(getattr(value, field.name), f"{where}.{field.name}")
            for field in dataclasses.fields(value)
        }
        return {"record": _name(type(value)), "fields": fields}

    @tree.register(type(None))
    @tree.register(bool)
    @tree.register(int)
    @tree.register(str)
    def _(self, value: Any, where: str = "") -> Any:
        return value

    @tree.register
    def _(self, value: float, where: str = "") -> Any:
        return float(value) if math.isfinite(value) else {"float": str(float(value))}

    @tree.register(list)
    def _(self, value: list[Any], where: str = "") -> Any:
        return [self.tree(part, f"{where}[{place}]") for place, part in enumerate(value)]

    @tree.register(tuple)
    def _(self, value: tuple[Any, ...], where: str = "") -> Any:
        return {"tuple": [self.tree(part, f"{where}[{n}]") for n, part in enumerate(value)]}

    @tree.register(Mapping)
    def _(self, value: Mapping[Any, Any], where: str = "") -> Any:
        pairs = [[self.tree(k, where), self.tree(v, f"{where}[{k!r}]")] for k, v in value.items()]
        return {"map": pairs}

    @tree.register
    def _(self, value: Tensor, where: str = "") -> Any:
        return {"tensor": self.tensor(value)}

    @tree.register
    def _(self, value: Checkpoint, where: str = "") -> Any:
        return {"checkpoint": self.checkpoint(value), "source": value.source}

    @tree.register
    def _(self, value: Path, where: str = "") -> Any:
        return {"path": str(value)}


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decodes the trees of `Encoder`.

    Attributes:
        tensor: returns the tensor of an entry.
        checkpoint: returns the checkpoint with an id.
    """

    tensor: Callable[[Any], Tensor]
    checkpoint: Callable[[str], Checkpoint]

    def value(self, tree: Any) -> Any:
        """Return the value of a tree.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: the tree is not valid, or was
                written by another version of the code.
        """
        if isinstance(tree, list):
            return [self.value(part) for part in tree]
        if not isinstance(tree, dict):
            return tree
        if "record" in tree:
            fields = {name: self.value(part) for name, part in tree["fields"].items()}
            return _built(tree["record"], fields)
        if "checkpoint" in tree:
            found = self.checkpoint(tree["checkpoint"])
            return dataclasses.replace(found, source=tree["source"])
        ((kind, content),) = tree.items()
        return self._readers[kind](content)

    @property
    def _readers(self) -> Mapping[str, Callable[[Any], Any]]:
        return {
            "float": float,
            "tuple": lambda parts: tuple(self.value(part) for part in parts),
            "map": lambda pairs: {self.value(key): self.value(part) for key, part in pairs},
            "tensor": self.tensor,
            "path": Path,
        }
