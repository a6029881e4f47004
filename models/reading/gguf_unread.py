"""Tensors of a GGUF model that transformers skips when it reads the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from ...checkpoints import LeftOut
from ..blocks.transformers_errors import REFUSED

if TYPE_CHECKING:
    from gguf import GGUFReader

_WHY = "a tensor of the GGUF file that transformers does not read"


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
    ]
