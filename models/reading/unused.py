"""Tensors of a folder that match no parameter of the transformers class of its config.

`from_pretrained` skips them: heads for multi-token prediction, vision towers of a model whose text
part alone is built, adapters that are not merged, layers beyond the config's count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from transformers import PreTrainedModel

from ...checkpoints import Checkpoint, LeftOut, TensorRef
from ...errors import ModelError
from ..blocks.parameter_names import parameter_finder
from .quantized import weight_of

_GROUPS_NAMED = 4


def unused_tensors(model: PreTrainedModel, refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """The tensors of a folder that match no parameter, by their names in the folder.

    Integer codes, scales and other parts of a quantised weight count as that weight.
    """
    find = parameter_finder(model)
    return {
        name: ref
        for name, ref in refs.items()
        if not find(name)[1] and not find(weight_of(name))[1]
    }


def quantised_parameters(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """The parameters that a folder stores quantised, by the names of its tensors."""
    find = parameter_finder(model)
    parts = [name for name in names if weight_of(name) != name and not find(name)[1]]
    return {find(weight_of(name))[0] for name in parts}


def require_dense(model: PreTrainedModel, refs: Mapping[str, TensorRef], label: str) -> None:
    """Refuse parts of quantised weights in a folder without a quantization_config.

    Raises:
        ModelError: there are some; their integer codes would be read as weights.
    """
    find = parameter_finder(model)
    for name in refs:
        if not find(name)[1] and weight_of(name) != name and find(weight_of(name))[1]:
            raise ModelError(
                f"'{label}' holds '{name}', part of a quantised weight, but config.json has no "
                f"quantization_config to read it by; use the original model"
            )


def require_merged(names: Iterable[str], label: str) -> None:
    """Refuse tensors of layers wrapped by PEFT, which match no parameter.

    Raises:
        ModelError: there are some.
    """
    for name in names:
        if ".base_layer." in name:
            raise ModelError(
                f"'{label}' holds '{name}', of a layer with an adapter that is not merged; merge "
                f"it with PEFT first: model.merge_and_unload()"
            )


def require_own_names(names: Iterable[str], model: PreTrainedModel, label: str) -> None:
    """Refuse a model all of whose tensors have a prefix, such as ``module.`` of a wrapper.

    Raises:
        ModelError: there is one.
    """
    known = model.state_dict().keys()
    prefixes = Counter(prefix for name in names if (prefix := _prefix_before(name, known)))
    for prefix, count in prefixes.most_common(1):
        if count > len(known) // 2:
            raise ModelError(
                f"the names of the tensors of '{label}' begin with '{prefix}.', as of a model "
                f"inside a wrapper for training; save the model itself, without the wrapper"
            )


def _prefix_before(name: str, known: Collection[str]) -> str:
    """What a name begins with before the name of a parameter; empty if it holds none."""
    for prefix in _prefixes(name)[:-1]:
        if name.removeprefix(f"{prefix}.") in known:
            return prefix
    return ""


def without_unused(checkpoint: Checkpoint, why: str) -> Checkpoint:
    """The checkpoint with its unused tensors moved to ``left_out``, with a reason."""
    gone = [LeftOut(name, ref.num_bytes, why) for name, ref in checkpoint.unused.items()]
    return replace(checkpoint, unused={}, left_out=(*checkpoint.left_out, *gone))


def in_words(unused: Mapping[str, TensorRef], known: Iterable[str]) -> str:
    """Describe tensors by count, bytes and name, such as "12 tensors (245,760 bytes): mtp".

    Args:
        known: names of the model's parameters; a group's name is not a prefix of any.
    """
    groups = grouped(unused, known)
    named = ", ".join(list(groups)[:_GROUPS_NAMED])
    more = f" and {len(groups) - _GROUPS_NAMED} more" if len(groups) > _GROUPS_NAMED else ""
    size = sum(ref.num_bytes for ref in unused.values())
    count = "1 tensor" if len(unused) == 1 else f"{len(unused)} tensors"
    return f"{count} ({size:,} bytes): {named}{more}"


def grouped(names: Iterable[str], known: Iterable[str]) -> dict[str, int]:
    """Number of tensors under each shortest prefix that no parameter has.

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
    """The names of the modules that contain a tensor, outermost first, and the tensor's name."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
