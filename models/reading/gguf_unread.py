"""Tensors of a GGUF model that transformers skips when it reads the file.

Those that take no part in its computation are left out and listed, such as heads for multi-token
prediction and layers beyond the count. Without any other, the model would compute something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from ...checkpoints import LeftOut
from ...errors import ModelError
from ..blocks.transformers_errors import REFUSED
from ..codecs.gguf_rope_scaling import ROPE_TENSORS

if TYPE_CHECKING:
    from gguf import GGUFReader

_WHY = "a tensor of the GGUF file that transformers does not read"
_OF_THE_MODEL = re.compile(
    r"(output|token_embd|position_embd|rope)[._]|blk\.(?P<block>\d+)\.(?!nextn)"
)
"""Names of tensors that llama.cpp computes the logits with, by how they begin."""


def unread_tensors(readers: Sequence[GGUFReader], model: PreTrainedModel) -> list[LeftOut]:
    """The tensors transformers skips, such as heads for multi-token prediction and extra layers.

    Args:
        readers: one for each file of the model, see `read_headers`.
        model: built from the file's config; may be on the meta device.
    """
    named = readers[0].fields["general.architecture"].contents()
    processor: Any = TENSOR_PROCESSORS.get(str(named).replace("-", "_"), TensorProcessor)
    try:
        known = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    except REFUSED:  # an architecture whose names gguf does not know; it cannot be loaded either
        return []
    return [
        LeftOut(tensor.name, int(tensor.n_bytes), _WHY)
        for reader in readers
        for tensor in reader.tensors
        if tensor.name not in known and tensor.name.rpartition(".")[0] not in known
        if tensor.name not in ROPE_TENSORS
    ]


def require_computed(unread: Iterable[LeftOut], model: PreTrainedModel, label: str) -> None:
    """Refuse a model of which tensors are skipped that it is computed with.

    Raises:
        ModelError: there are some, named.
    """
    layers = int(getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0))
    names = [
        each.name
        for each in unread
        if (found := _OF_THE_MODEL.match(each.name)) and int(found["block"] or 0) < layers
    ]
    if names:
        raise ModelError(
            f"'{label}' holds {len(names)} tensors, such as '{names[0]}', for which "
            f"{type(model).__name__} has no parameter: without them it would compute something "
            f"else; give the model that the file was made from, as a folder of safetensors"
        )
