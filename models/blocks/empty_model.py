"""Build the transformers model of a checkpoint's config with its parameters on the meta device."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ...checkpoints import Checkpoint
from ...errors import ModelError
from .config import (
    has_code,
    impossible_depth,
    read_config_object,
    require_depth,
    unbuildable,
)
from .transformers_errors import REFUSED

_WITHOUT_VALUES = frozenset({torch.empty, torch.rand, torch.randn})
_LARGE = 1 << 28  # elements
_BUILDING = threading.RLock()


def empty_model(checkpoint: Checkpoint, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The transformers model of a checkpoint's config with parameters on the meta device.

    Args:
        dtype: compute dtype, to which constants such as Gemma's embedding scale are rounded; None
            for the dtype of the config.

    Raises:
        ModelError: transformers does not know the architecture, or cannot read its config.
    """
    trust = has_code(checkpoint)
    try:
        with (
            read_config_object(checkpoint, trust) as config,
            without_weights(),
            _LargeOnMeta(),
        ):
            # One product per expert, so that the inputs of each expert can be observed.
            config._experts_implementation = "eager"
            # The auxiliary loss needs the logits of all routers; a run of one block has only one.
            config.get_text_config(decoder=True).output_router_logits = False
            if checkpoint.refs:
                require_depth(config, len(checkpoint.refs))
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust, dtype=dtype or config.dtype
            )
    except REFUSED as error:
        raise unbuildable(checkpoint, error) from error
    model.eval()
    return model  # type: ignore[no-any-return]


@contextmanager
def without_weights() -> Iterator[None]:
    """Models built inside have parameters on the meta device, and buffers with values.

    accelerate exchanges a method of ``nn.Module`` meanwhile. If two threads did so at once, the one
    that ends last would put back the method of the other, and every model of the process would be
    without weights from then on. So one thread builds at a time.
    """
    with _BUILDING, init_empty_weights(include_buffers=False):
        yield


class _LargeOnMeta(TorchFunctionMode):
    """Puts large tensors that wait for values on the meta device when they are made.

    `init_empty_weights` moves a parameter only after it was allocated: 30 GB for the fused experts
    of one layer of DeepSeek-V3, more than a machine may have. Buffers are computed, not empty.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _WITHOUT_VALUES and func(*args, **{**kwargs, "device": "meta"}).numel() > _LARGE:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def shared_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model of `empty_model`, cached by config; callers must not change it."""
    num_tensors = len(checkpoint.refs)
    if has_code(checkpoint) or (num_tensors and impossible_depth(checkpoint.config, num_tensors)):
        return empty_model(checkpoint)  # refuses more layers than tensors before it builds them
    return _of_config(json.dumps(dict(checkpoint.config)))


@lru_cache(maxsize=8)
def _of_config(config: str) -> PreTrainedModel:
    return empty_model(Checkpoint(json.loads(config), {}))


def text_config(checkpoint: Checkpoint) -> Any:
    """The config of the language model, un-nested and with the defaults of transformers."""
    return shared_model(checkpoint).config.get_text_config(decoder=True)


def tied_parameters(model: PreTrainedModel) -> dict[str, str]:
    """Names of the tied parameters, each with the name of the parameter it is tied to."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def tie(model: PreTrainedModel) -> None:
    """Tie the parameters again after tensors were replaced."""
    for target, source in tied_parameters(model).items():
        place, _, leaf = target.rpartition(".")
        model.get_submodule(place)._parameters[leaf] = model.get_parameter(source)


def find_blocks(model: PreTrainedModel) -> tuple[str, list[nn.Module]]:
    """The decoder stack: the module list of the text model with the config's number of layers.

    Vision and audio towers may have the same number of layers. They are modules with their own
    config, and are not searched.

    Raises:
        ModelError: there is no such list.
    """
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = dict(_module_lists(model))
    for path, module in lists.items():
        if len(module) == count:
            return path, list(module)
    listed = ", ".join(f"{path} ({len(module)})" for path, module in lists.items())
    raise ModelError(
        f"{type(model).__name__} has no stack of decoder blocks: looked for a module list of "
        f"num_hidden_layers={count}, found {listed or 'none'}"
    )


def _module_lists(model: PreTrainedModel) -> Iterator[tuple[str, nn.ModuleList]]:
    """Every module list of the text model, outer ones first."""
    text_types = {type(model.config), type(model.config.get_text_config(decoder=True))}
    others: list[str] = []
    for path, module in model.named_modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig) and type(config) not in text_types:
            others.append(f"{path}.")
        elif isinstance(module, nn.ModuleList) and not path.startswith(tuple(others)):
            yield path, module
