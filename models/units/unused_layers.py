"""What becomes of tensors without a parameter when layers of the model are removed.

Such a tensor may belong to a layer: a buffer of an older version, an adapter that was not merged,
or a whole layer beyond the config's count, as heads for multi-token prediction are stored. It is
removed with its layer or takes the layer's new number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ...checkpoints import Checkpoint, LeftOut, TensorRef
from ..blocks.empty_model import find_blocks, shared_model
from ..blocks.parameter_names import parameter_finder


def renumber_unused(checkpoint: Checkpoint, kept: Sequence[int]) -> Checkpoint:
    """The checkpoint, its tensors still those of every layer, with the unused ones of ``kept``.

    Layers beyond the config's count stay behind the last one.
    """
    if not checkpoint.unused:
        return checkpoint
    model = shared_model(checkpoint)
    path, blocks = find_blocks(model)
    find, prefix = parameter_finder(model), f"{model.base_model_prefix}."
    unused: dict[str, TensorRef] = {}
    gone: list[LeftOut] = []
    for name, ref in checkpoint.unused.items():
        index = _layer(find(name)[0], path, prefix)
        if index is None:
            unused[name] = ref
        elif index >= len(blocks):
            unused[_numbered(name, index, index - len(blocks) + len(kept))] = ref
        elif index in kept:
            unused[_numbered(name, index, kept.index(index))] = ref
        else:
            gone.append(LeftOut(name, ref.num_bytes, "its layer was removed"))
    return replace(checkpoint, unused=unused, left_out=(*checkpoint.left_out, *gone))


def _layer(name: str, path: str, prefix: str) -> int | None:
    """The number of the layer a tensor belongs to; None for any other."""
    for stack in (path, path.removeprefix(prefix)):
        found = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
        if found:
            return int(found[1])
    return None


def _numbered(name: str, before: int, after: int) -> str:
    """The name with the number of its layer exchanged."""
    return re.sub(rf"(^|\.){before}\.", rf"\g<1>{after}.", name, count=1)
