"""Convert between a transformers model in memory and a `Checkpoint`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoints import Checkpoint, InMemory, TensorRef
from ..blocks.skeleton import Skeleton
from .folder_files import folder_files
from .tied_weights import tied_names, with_ties_settled
from .unused import require_merged


def as_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *, source: str = ""
) -> Checkpoint:
    """Make a checkpoint of a transformers model in memory; `Checkpoint.to_model` is the inverse.

    The tensors are shared, not copied: do not change the model afterwards.

    Tied parameters are stored once, under the name transformers saves them by. Parameters that are
    tied by the config but differ in value are both stored, and the config is corrected.

    Raises:
        ModelError: the model has PEFT adapters that are not merged.
    """
    require_merged(model.state_dict(), type(model).__name__)
    refs: dict[str, TensorRef] = {n: InMemory(t) for n, t in model.state_dict().items()}
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
    return with_ties_settled(Checkpoint(config, refs, files, source=source), tied_names(model))


def to_model(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The transformers model of a checkpoint; see `Checkpoint.to_model`."""
    model = Skeleton(checkpoint, dtype=dtype).fill()
    model.eval()
    return model
