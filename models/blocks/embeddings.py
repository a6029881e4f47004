"""Find the input embedding and the output head of a model of any architecture."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from ...checkpoints import Checkpoint
from .empty_model import shared_model


def embedding_names(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors of the input embedding and, if not tied, of the output head.

    Empty if the input embedding is not a plain matrix [vocabulary, width].
    """
    model = shared_model(checkpoint)
    names = [f"{path}.weight" for path in embedding_paths(model)]
    return [name for name in names if name in checkpoint.refs]


def table_names(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors of the input embedding and of an untied head, of any class.

    Unlike `embedding_names`, for formats that do not depend on the classes of transformers.
    """
    model = shared_model(checkpoint)
    paths = {id(module): path for path, module in model.named_modules()}
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [f"{paths[id(module)]}.weight" for module in modules if id(module) in paths]
    return [name for name in names if name in checkpoint.refs]


def is_part_of_wrapper(checkpoint: Checkpoint) -> bool:
    """Whether the config contains the language model's config, as in vision models."""
    config = shared_model(checkpoint).config
    return config.get_text_config(decoder=True) is not config


def embedding_paths(model: PreTrainedModel) -> list[str]:
    """Module paths of the input embedding and of the output head, tied or not.

    Empty for subclasses of ``nn.Embedding`` such as Gemma's scaled one: when it is quantised,
    transformers reports its scale as a missing parameter.
    """
    source, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(source) is not nn.Embedding:
        return []
    plain = isinstance(head, nn.Linear) and getattr(head, "bias", None) is None
    wanted = [source, head] if plain else [source]
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths[id(module)] for module in wanted if id(module) in paths]
