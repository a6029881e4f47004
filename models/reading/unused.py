"""Tensors of a folder that the transformers class of its config has no parameter for.

Heads for multi-token prediction, vision towers of a model whose text part alone is built, adapters
that were not merged, layers beyond the config's count: `from_pretrained` skips them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from transformers import PreTrainedModel

from ...checkpoints import Checkpoint, LeftOut, TensorRef
from ...errors import ModelError
from ..blocks.parameter_names import parameter_finder
from .quantized import weight_of

_GROUPS_NAMED = 4


def unused_tensors(model: PreTrainedModel, refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Of the tensors of a folder, by their names there, those that no parameter is loaded from.

    Codes, scales and other parts of a quantised weight are used where the weight is.
    """
    find = parameter_finder(model)
    return {
        name: ref
        for name, ref in refs.items()
        if not find(name)[1] and not find(weight_of(name))[1]
    }


def quantised_parameters(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """The parameters that a folder holds as codes, by the names of its tensors."""
    find = parameter_finder(model)
    return {find(weight_of(name))[0] for name in names if weight_of(name) != name}


def require_dense(model: PreTrainedModel, refs: Mapping[str, TensorRef], label: str) -> None:
    """Refuse parts of quantised weights in a folder whose config does not say it is quantised.

    Raises:
        ModelError: there are some; their codes would be taken for values.
    """
    find = parameter_finder(model)
    for name in refs:
        if not find(name)[1] and weight_of(name) != name and find(weight_of(name))[1]:
            raise ModelError(
                f"'{label}' holds '{name}', part of a quantised weight, but config.json has no "
                f"quantization_config that says how to read it; give the model it was made from"
            )


def require_merged(names: Iterable[str], label: str) -> None:
    """Refuse tensors of layers that PEFT has wrapped, for which the class has no parameters.

    Raises:
        ModelError: there are some.
    """
    for name in names:
        if ".base_layer." in name:
            raise ModelError(
                f"'{label}' holds '{name}', of a layer with an adapter that is not merged; merge "
                f"it with PEFT first: model.merge_and_unload()"
            )


def without_unused(checkpoint: Checkpoint, why: str) -> Checkpoint:
    """The checkpoint with its unused tensors listed as left out, for the reason given."""
    gone = [LeftOut(name, ref.num_bytes, why) for name, ref in checkpoint.unused.items()]
    return replace(checkpoint, unused={}, left_out=(*checkpoint.left_out, *gone))


def in_words(unused: Mapping[str, TensorRef], known: Iterable[str]) -> str:
    """Count, bytes and what the tensors are called, such as "12 tensors (245,760 bytes): mtp".

    Args:
        known: names of the model's parameters, which a group's name must not begin.
    """
    groups = grouped(unused, known)
    named = ", ".join(list(groups)[:_GROUPS_NAMED])
    more = f" and {len(groups) - _GROUPS_NAMED} more" if len(groups) > _GROUPS_NAMED else ""
    size = sum(ref.num_bytes for ref in unused.values())
    count = "1 tensor" if len(unused) == 1 else f"{len(unused)} tensors"
    return f"{count} ({size:,} bytes): {named}{more}"


def grouped(names: Iterable[str], known: Iterable[str]) -> dict[str, int]:
    """How many tensors there are under each shortest prefix that no parameter has.

    Args:
        known: names of the model's parameters.
    """
    taken = {prefix for name in known for prefix in _prefixes(name)}
    groups: dict[str, int] = {}
    for name in names:
        group = next((prefix for prefix in _prefixes(name) if prefix not in taken), name)
        groups[group] = groups.get(group, 0) + 1
    return groups


def _prefixes(name: str) -> list[str]:
    """The modules a tensor lies in, outermost first, and the tensor itself."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
