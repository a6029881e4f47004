"""Tensors of a GGUF model that transformers skips when it reads the file."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from ...checkpoints import LeftOut
from ..blocks.transformers_errors import REFUSED
from .gguf_header import read_header, read_tensors
from .sources import Source

_WHY = "a tensor of the GGUF file that transformers does not read"


def unread_tensors(source: Source, model: PreTrainedModel) -> list[LeftOut]:
    """The tensors transformers skips, such as heads for multi-token prediction and extra layers.

    Args:
        model: built from the file's config; may be on the meta device.

    Raises:
        ModelError: the file is damaged.
    """
    named = read_header(source).fields["general.architecture"].contents()
    processor: Any = TENSOR_PROCESSORS.get(str(named).replace("-", "_"), TensorProcessor)
    try:
        known = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    except REFUSED:  # an architecture whose names gguf does not know; it cannot be loaded either
        return []
    return [
        LeftOut(tensor.name, int(tensor.n_bytes), _WHY)
        for tensor in read_tensors(source)
        if tensor.name not in known and tensor.name.rpartition(".")[0] not in known
    ]
