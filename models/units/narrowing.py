"""What becomes smaller in every block when a config says fewer neurons or key/value groups.

Found by building the empty model at both sizes and comparing shapes, so that transformers itself
says which tensors a size shows in, and whether it takes the size at all.
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
from .config_keys import Kind, counts, fewest, settings, with_settings


@dataclass(frozen=True)
class Part:
    """One axis of one tensor along which every unit has its share.

    Attributes:
        tensor: its name within a block, such as ``mlp.up_proj.weight``.
        axis: of the tensor as stored.
        size: its length along that axis, a multiple of the number of units.
    """

    tensor: str
    axis: int
    size: int


@dataclass(frozen=True)
class Resizing:
    """A change of one size of a config, and what it changes in each block, which is the same.

    Attributes:
        before, after: how many units there are in every block.
        config: top-level config keys that say so.
        parts: what becomes smaller.
    """

    kind: Kind
    before: int
    after: int
    config: Mapping[str, Any]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Narrowing(Resizing):
    """A change of the number of units whose outputs flow into one linear.

    Attributes:
        output: the part whose linears' input features those outputs are.
    """

    output: Part


def units_of(checkpoint: Checkpoint, kind: Kind) -> int:
    """How many neurons, key/value groups or experts every block has.

    Raises:
        ModelError: the config has no key that says so and that its model heeds.
    """
    return _sized(checkpoint, kind)[1]


def resizing(checkpoint: Checkpoint, kind: Kind, after: int) -> Resizing:
    """What having ``after`` units of a kind in every block means for this model.

    Raises:
        ModelError: the config cannot express it, or transformers refuses the size.
    """
    key, before, model = _sized(checkpoint, kind)
    text = model.config.get_text_config(decoder=True)
    if after < fewest(kind, text):
        raise ModelError(f"every token goes to {fewest(kind, text)} {kind}")
    config = with_settings(checkpoint, model.config, settings(kind, key, text, after))
    parts = _shrunk(model, _rebuilt(checkpoint, config), kind, before, after)
    return Resizing(kind, before, after, config, parts)


def narrowing(checkpoint: Checkpoint, kind: Kind, after: int) -> Narrowing:
    """The same for units whose outputs flow into one linear, or into that of their expert.

    Raises:
        ModelError: as `resizing`, or there is no such linear.
    """
    found = resizing(checkpoint, kind, after)
    output = _output(shared_model(checkpoint), found.parts, kind, found.before)
    return Narrowing(kind, found.before, after, found.config, found.parts, output)


def _sized(checkpoint: Checkpoint, kind: Kind) -> tuple[str, int, PreTrainedModel]:
    """The key that sizes this kind, how many units it says, and the model as it is."""
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
        f"a config of type '{kind_of_model}' cannot say that every block has fewer {kind}: {why}"
    )


def _rebuilt(checkpoint: Checkpoint, config: Mapping[str, Any]) -> PreTrainedModel:
    return shared_model(replace(checkpoint, config={**checkpoint.config, **config}))


def _shrunk(
    large: PreTrainedModel, small: PreTrainedModel, kind: Kind, before: int, after: int
) -> tuple[Part, ...]:
    """The parts of a block that differ, if all blocks differ alike and by whole units."""
    if before == after:
        raise ModelError(f"{before} {kind} are what every block has")
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


def _unheeded(model: PreTrainedModel, kind: Kind) -> str:
    if kind == "groups":
        return (
            f"{type(model).__name__} takes the width of a head from hidden_size / "
            f"num_attention_heads, so fewer heads would be wider ones"
        )
    return f"no tensor of {type(model).__name__}'s blocks is sized by it"


def _check_outside(large: PreTrainedModel, small: PreTrainedModel, path: str, kind: Kind) -> None:
    other = dict(small.named_parameters())
    for name, parameter in large.named_parameters():
        outside = not name.startswith(f"{path}.")
        if outside and parameter.shape != other[name].shape:
            raise ModelError(f"the number of {kind} also sizes '{name}', outside the blocks")


def _differing(
    wide: nn.Module, slim: nn.Module, before: int, after: int, kind: Kind
) -> tuple[Part, ...]:
    parts = []
    narrow = dict(slim.named_parameters())
    for name, parameter in wide.named_parameters():
        for axis, (long, short) in enumerate(zip(parameter.shape, narrow[name].shape, strict=True)):
            if long == short:
                continue
            if long * after != short * before:
                raise ModelError(f"'{name}' is not made of equal shares of {before} {kind}")
            parts.append(Part(name, axis, long))
    return tuple(parts)


def _output(model: PreTrainedModel, parts: tuple[Part, ...], kind: Kind, before: int) -> Part:
    """The part that takes the units' outputs in: inputs of one linear, or of all experts'."""
    block = find_blocks(model)[1][0]
    inputs = {linear.tensor: _input_axis(linear) for linear in find_linears(block, "")}
    found = [part for part in parts if inputs.get(part.tensor) == part.axis]
    if len(found) != 1 or found[0].size % before:
        names = ", ".join(f"'{part.tensor}'" for part in found) or "none"
        raise ModelError(
            f"the outputs of a block's {before} {kind} should flow into one linear of "
            f"{type(model).__name__}, found {names}"
        )
    return found[0]


def _input_axis(linear: Linear) -> int:
    axis = 0 if linear.transposed else 1
    return axis if linear.expert is None else axis + 1
