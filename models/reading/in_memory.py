"""Convert between a transformers model in memory and a `Checkpoint`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoints import Checkpoint, InMemory, TensorRef
from ...errors import ModelError
from ..blocks.skeleton import Skeleton
from .changed_on_load import as_loaded
from .folder_files import folder_files
from .tied_weights import tied_names, with_ties_settled
from .unused import require_merged


def as_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *, source: str = ""
) -> Checkpoint:
    """Make a checkpoint of a transformers model in memory; `Checkpoint.to_model` is the inverse.

    The tensors are shared, not copied: do not change the model afterwards. Those that transformers
    changes whenever it loads such a model are copied as it would leave them.

    Tied parameters are stored once, under the name transformers saves them by. Parameters that are
    tied by the config but differ in value are both stored, and the config is corrected.

    Raises:
        ModelError: the model has PEFT adapters that are not merged, is quantised, or has no values.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    tensors = model.state_dict()
    require_merged(tensors, type(model).__name__)
    _require_values(model, tensors)
    refs: dict[str, TensorRef] = {n: InMemory(t) for n, t in tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            # Not save_pretrained, which refuses settings that many published models have.
            model.generation_config.to_json_file(Path(folder) / "generation_config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        files = folder_files(Path(folder), code=False).carried
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    found = Checkpoint(config, refs, files, source=source)
    return as_loaded(with_ties_settled(found, tied_names(model)))


def _require_values(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Refuse codes of a quantised model, which are no weights, and tensors without values."""
    name = type(model).__name__
    if getattr(model, "hf_quantizer", None) is not None:
        settings = getattr(model.config, "quantization_config", None)
        method = getattr(settings, "quant_method", "by a method it does not name")
        raise ModelError(
            f"{name} is quantised in memory ({getattr(method, 'value', method)}), so its tensors "
            f"are codes; open its folder with load or open_checkpoint instead"
        )
    for tensor, values in tensors.items():
        if values.is_meta:
            raise ModelError(
                f"tensor '{tensor}' of {name} is on the meta device and has no values; load the "
                f"model onto a device first"
            )


def to_model(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The transformers model of a checkpoint; see `Checkpoint.to_model`."""
    model = Skeleton(checkpoint, dtype=dtype).fill()
    model.eval()
    return model
