"""Which tensors of a block shrink when the config has fewer neurons, key/value groups or experts.

The empty model is built at both sizes and the shapes are compared, so transformers itself decides
which tensors a size affects, and whether the size is valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...checkpoints import Checkpoint
from ...errors import ModelError
from ..blocks.empty_model import find_blocks, shared_model
from ..blocks.linears import Linear, find_linears
from .config_keys import UnitKind, counts, fewest, settings, with_settings


@dataclass(frozen=True)
class Part:
    """One axis of one tensor that is divided among the units.

    Attributes:
        tensor: name within a block, such as ``mlp.up_proj.weight``.
        axis: axis of the stored tensor.
        size: length along that axis, a multiple of the number of units.
    """

    tensor: str
    axis: int
    size: int


@dataclass(frozen=True)
class Resizing:
    """A change of one size, with the same effect on every block.

    Attributes:
        before, after: number of units of every block.
        config: top-level config keys that make the change.
        parts: the tensors that shrink.
    """

    kind: UnitKind
    before: int
    after: int
    config: Mapping[str, Any]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Narrowing(Resizing):
    """A change of the number of units whose outputs are the inputs of one linear.

    Attributes:
        output: the part that holds that linear, such as ``down_proj`` or ``o_proj``.
    """

    output: Part


def units_of(checkpoint: Checkpoint, kind: UnitKind) -> int:
    """Number of neurons, key/value groups or experts of every block.

    Raises:
        ModelError: no key of the config sets it.
    """
    return _sized(checkpoint, kind)[1]


def resizing(checkpoint: Checkpoint, kind: UnitKind, after: int) -> Resizing:
    """The change of this model to ``after`` units of a kind in every block.

    Raises:
        ModelError: the config cannot express it, or transformers refuses the size.
    """
    key, before, model = _sized(checkpoint, kind)
    text = model.config.get_text_config(decoder=True)
    if after < fewest(kind, text):
        least = fewest(kind, text)
        raise ModelError(f"{after} {kind} are too few: every token is routed to {least}")
    config = with_settings(checkpoint, model.config, settings(kind, key, text, after))
    parts = _shrunk(model, _rebuilt(checkpoint, config), kind, before, after)
    return Resizing(kind, before, after, config, parts)


def narrowing(checkpoint: Checkpoint, kind: UnitKind, after: int) -> Narrowing:
    """The same for units whose outputs are the inputs of one linear, or of their expert's linear.

    Raises:
        ModelError: as `resizing`, or there is no such linear.
    """
    found = resizing(checkpoint, kind, after)
    output = _output(shared_model(checkpoint), found.parts, kind, found.before)
    return Narrowing(kind, found.before, after, found.config, found.parts, output)


def _sized(checkpoint: Checkpoint, kind: UnitKind) -> tuple[str, int, PreTrainedModel]:
    """The key that sets the number of units, the number, and the empty model at that size."""
    model = shared_model(checkpoint)
    text = model.config.get_text_config(decoder=True)
    refusals = []
    for key, count in counts(kind, text):
        changes = with_settings(checkpoint, model.config, settings(kind, key, text, 2 * count))
        try:
            _shrunk(_rebuilt(checkpoint, changes), model, kind, 2 * count, count)
        except ModelError as error:
            refusals.append(str(error))
        else:
            return key, count, model
    kind_of_model = checkpoint.config.get("model_type")
    why = "; ".join(refusals) or "it has no key for them"
    raise ModelError(
        f"a config of type '{kind_of_model}' cannot express fewer {kind} in every block: {why}"
    )


def _rebuilt(checkpoint: Checkpoint, config: Mapping[str, Any]) -> PreTrainedModel:
    return shared_model(replace(checkpoint, config={**checkpoint.config, **config}))


def _shrunk(
    large: PreTrainedModel, small: PreTrainedModel, kind: UnitKind, before: int, after: int
) -> tuple[Part, ...]:
    """The parts of a block that differ, if all blocks differ in the same way and by whole units."""
    if before == after:
        raise ModelError(f"every block already has {before} {kind}")
    path, blocks = find_blocks(large)
    _, narrow = find_blocks(small)
    _check_outside(large, small, path, kind)
    found = [
        _differing(wide, slim, before, after, kind)
        for wide, slim in zip(blocks, narrow, strict=True)
    ]
    if not found[0]:
        raise ModelError(_unheeded(large, kind))
    if any(parts != found[0] for parts in found):
        raise ModelError(f"its blocks do not all have the same {kind}")
    return found[0]


def _unheeded(model: PreTrainedModel, kind: UnitKind) -> str:
    if kind == "groups":
        return (
            f"{type(model).__name__} derives the width of a head from hidden_size / "
            f"num_attention_heads, so fewer heads would be wider"
        )
    return f"it changes no tensor of {type(model).__name__}'s blocks"


def _check_outside(
    large: PreTrainedModel, small: PreTrainedModel, path: str, kind: UnitKind
) -> None:
    other = dict(small.named_parameters())
    for name, parameter in large.named_parameters():
        outside = not name.startswith(f"{path}.")
        if outside and parameter.shape != other[name].shape:
            raise ModelError(f"the number of {kind} also changes '{name}', outside the blocks")


def _differing(
    wide: nn.Module, slim: nn.Module, before: int, after: int, kind: UnitKind
) -> tuple[Part, ...]:
    parts = []
    narrow = dict(slim.named_parameters())
    for name, parameter in wide.named_parameters():
        for axis, (long, short) in enumerate(zip(parameter.shape, narrow[name].shape, strict=True)):
            if long == short:
                continue
            if long * after != short * before:
                raise ModelError(f"'{name}' does not divide evenly among {before} {kind}")
            parts.append(Part(name, axis, long))
    return tuple(parts)


def _output(model: PreTrainedModel, parts: tuple[Part, ...], kind: UnitKind, before: int) -> Part:
    """The part whose input features are the units' outputs: one linear, or one per expert."""
    block = find_blocks(model)[1][0]
    inputs = {linear.tensor: _input_axis(linear) for linear in find_linears(block, "")}
    found = [part for part in parts if inputs.get(part.tensor) == part.axis]
    if len(found) != 1 or found[0].size % before:
        names = ", ".join(f"'{part.tensor}'" for part in found) or "none"
        raise ModelError(
            f"the outputs of a block's {before} {kind} must be the inputs of one linear of "
            f"{type(model).__name__}, found {names}"
        )
    return found[0]


def _input_axis(linear: Linear) -> int:
    axis = 0 if linear.transposed else 1
    return axis if linear.expert is None else axis + 1
