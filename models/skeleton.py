"""A transformers model whose blocks are empty until one is asked for.

The modules are built on the meta device, so a model of any size costs nothing until its tensors
are put in; a pass over the blocks holds the embeddings, the head and one block, while the next
block's tensors are read in a second thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..checkpoints import Checkpoint, InMemory, Quantized, TensorRef
from ..errors import CheckpointError, ModelError


class Skeleton:
    """A checkpoint as transformers modules, materialised block by block.

    Attributes:
        checkpoint: whose tensors it takes.
        model: the transformers model; parameters not in use are on the meta device.
        path: where the blocks are, such as ``model.layers``.
        blocks: the decoder blocks, in order.
        device, dtype: where and in what blocks compute.
        returns_tuple: how the blocks return hidden states; None until one was asked.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.returns_tuple: bool | None = None
        self.device = device or default_device()
        self.dtype = dtype or compute_dtype(checkpoint, self.device)
        self.model = empty_model(checkpoint)
        self.path, self.blocks = find_blocks(self.model)
        self._check_complete()
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)
        self._fill(self._outside())
        tie(self.model)

    def block_names(self, index: int) -> list[str]:
        """Names of the tensors of one block."""
        prefix = f"{self.path}.{index}."
        return [name for name in self.checkpoint.refs if name.startswith(prefix)]

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """One block with its tensors in, for as long as the context lasts."""
        yield self._materialise(index, self._read(self.block_names(index)))
        self._release(index)

    def each_block(self) -> Iterator[tuple[int, nn.Module]]:
        """Every block in turn, one materialised at a time, the next one read ahead."""
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead = reader.submit(self._read, self.block_names(0))
            for index in range(len(self.blocks)):
                tensors = ahead.result()
                if index + 1 < len(self.blocks):
                    ahead = reader.submit(self._read, self.block_names(index + 1))
                yield index, self._materialise(index, tensors)
                self._release(index)

    def fill(self) -> PreTrainedModel:
        """The whole model with every tensor in, its own copies, ready to be trained."""
        for index in range(len(self.blocks)):
            self._fill(self._read(self.block_names(index)))
        for parameter in self.model.parameters():
            parameter.data = parameter.data.clone()
        tie(self.model)
        return self.model

    def put(self, name: str, value: Tensor | TensorRef) -> None:
        """Exchange one tensor of a materialised block."""
        ref = InMemory(value) if isinstance(value, Tensor) else value
        self._fill({name: self._value(ref)})

    def _outside(self) -> dict[str, Tensor]:
        inside = f"{self.path}."
        return self._read([name for name in self.checkpoint.refs if not name.startswith(inside)])

    def _read(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self._value(self.checkpoint.refs[name]) for name in names}

    def _value(self, ref: TensorRef) -> Tensor:
        if isinstance(ref, Quantized):
            return ref.values(self.dtype).to(self.device)
        tensor = ref.load()
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def _materialise(self, index: int, tensors: Mapping[str, Tensor]) -> nn.Module:
        self._fill(tensors)
        return self.blocks[index]

    def _release(self, index: int) -> None:
        names = self.block_names(index)
        self._fill({name: self._held(name).to("meta") for name in names})

    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            place, _, leaf = name.rpartition(".")
            module = self.model.get_submodule(place)
            if leaf in module._buffers:
                module._buffers[leaf] = tensor
            else:
                module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)

    def _held(self, name: str) -> Tensor:
        place, _, leaf = name.rpartition(".")
        held: Tensor = getattr(self.model.get_submodule(place), leaf)
        return held

    def _check_complete(self) -> None:
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        wanted = set(self.model.state_dict()) - set(tied)
        for name in sorted(wanted - self.checkpoint.refs.keys()):
            raise CheckpointError(
                f"the checkpoint lacks tensor '{name}', which {type(self.model).__name__} needs"
            )


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """What to compute in: float32 on a CPU, whose bfloat16 is slow or inexact; else as stored."""
    stored = getattr(torch, str(checkpoint.config.get("dtype")), torch.float32)
    return torch.float32 if device.type == "cpu" else stored


def empty_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The transformers model of a checkpoint's config with parameters on the meta device.

    Raises:
        ModelError: transformers does not know the architecture, or its config is refused.
    """
    trust = has_code(checkpoint)
    try:
        config = _config(checkpoint, trust)
        # One product per expert, so that each expert's inputs can be seen apart.
        config._experts_implementation = "eager"
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        kind = checkpoint.config.get("model_type")
        raise ModelError(
            f"no model can be built from the config of type '{kind}': {error}"
        ) from error
    model.eval()
    return model  # type: ignore[no-any-return]


def has_code(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint carries Python of its own, which it does only if the user said so."""
    return any(name.endswith(".py") for name in checkpoint.files)


def _config(checkpoint: Checkpoint, trust: bool) -> Any:
    plain = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    kind = plain.get("model_type")
    if kind in CONFIG_MAPPING:
        return CONFIG_MAPPING[kind].from_dict(plain)
    if not trust:
        raise ValueError("transformers does not know it")
    with tempfile.TemporaryDirectory() as folder:
        for name, data in checkpoint.files.items():
            (Path(folder) / name).write_bytes(data)
        return AutoConfig.from_pretrained(folder, trust_remote_code=True)


def tie(model: PreTrainedModel) -> None:
    """Make tied parameters one object again after tensors were exchanged."""
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        place, _, leaf = target.rpartition(".")
        model.get_submodule(place)._parameters[leaf] = model.get_parameter(source)


def find_blocks(model: PreTrainedModel) -> tuple[str, list[nn.Module]]:
    """The decoder stack: the one module list as long as the config says there are layers.

    Raises:
        ModelError: no such list, with what was looked for.
    """
    config = model.config.get_text_config(decoder=True)
    count = getattr(config, "num_hidden_layers", None)
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return path, list(module)
    lists = [f"{p} ({len(m)})" for p, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    raise ModelError(
        f"{type(model).__name__} has no stack of decoder blocks: looked for a module list of "
        f"num_hidden_layers={count}, found {', '.join(lists) or 'none'}"
    )
