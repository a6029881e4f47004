"""A transformers model whose blocks are empty until one is asked for.

The modules are built on the meta device, so a model of any size costs nothing until its tensors
are put in; a pass over the blocks holds the embeddings, the head and one block, while the next
block's tensors are read in a second thread.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..checkpoints import Checkpoint, InMemory, Quantized, TensorRef
from ..checkpoints.allocator import give_back
from ..errors import CheckpointError, ModelError
from .refusals import REFUSED, reason

# What architectures call their number of layers, and more than any of them has.
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MOST_LAYERS = 10_000


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
        self.model = empty_model(checkpoint, dtype=self.dtype)
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
        try:
            yield self._materialise(index, self._read(self.block_names(index)))
        finally:
            self._release(index)

    def each_block(self, start: int = 0) -> Iterator[tuple[int, nn.Module]]:
        """Every block from ``start`` on, one materialised at a time, the next one read ahead."""
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead = reader.submit(self._read, self.block_names(start))
            for index in range(start, len(self.blocks)):
                tensors = ahead.result()
                if index + 1 < len(self.blocks):
                    ahead = reader.submit(self._read, self.block_names(index + 1))
                try:
                    yield index, self._materialise(index, tensors)
                finally:
                    self._release(index)
                    give_back()

    def fill(
        self, settle: Callable[[str, nn.Module], None] = lambda path, block: None
    ) -> PreTrainedModel:
        """The whole model with every tensor in, its own copies, ready to be trained.

        ``settle`` is handed every block, with its path, once its tensors are in and before the
        next one is read.
        """
        for parameter in self.model.parameters():
            if parameter.device.type != "meta":
                parameter.data = parameter.data.clone()
        for index, block in enumerate(self.blocks):
            self._fill(self._read(self.block_names(index)))
            for parameter in block.parameters():
                parameter.data = parameter.data.clone()
            settle(f"{self.path}.{index}", block)
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
        for name, wanted in self.model.state_dict().items():
            if name not in tied:
                self._check_tensor(name, tuple(wanted.shape))

    def _check_tensor(self, name: str, wanted: tuple[int, ...]) -> None:
        ref = self.checkpoint.refs.get(name)
        if ref is None:
            raise CheckpointError(
                f"the checkpoint lacks tensor '{name}', which {type(self.model).__name__} needs; "
                f"fetch it again"
            )
        if ref.shape != wanted:
            raise CheckpointError(
                f"tensor '{name}' has shape {ref.shape}, but the config asks for {wanted}; "
                f"fetch config and weights again, from one place"
            )


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """What to compute in: float32 on a CPU, whose bfloat16 is slow or inexact; else as stored."""
    if device.type == "cpu":
        return torch.float32
    stored = getattr(torch, str(checkpoint.config.get("dtype")), None)
    if isinstance(stored, torch.dtype):
        return stored
    floating = (ref.dtype for ref in checkpoint.refs.values() if ref.dtype.is_floating_point)
    return next(floating, torch.float32)


def empty_model(checkpoint: Checkpoint, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The transformers model of a checkpoint's config with parameters on the meta device.

    Args:
        dtype: what it will compute in, which constants such as Gemma's embedding scale are rounded
            to; None for the config's.

    Raises:
        ModelError: transformers does not know the architecture, or its config is refused.
    """
    trust = has_code(checkpoint)
    try:
        with _read_again(checkpoint, trust) as config, init_empty_weights(include_buffers=False):
            # One product per expert, so that each expert's inputs can be seen apart.
            config._experts_implementation = "eager"
            # A loss over all routers' logits, of which a run block by block has none.
            config.get_text_config(decoder=True).output_router_logits = False
            if checkpoint.refs:
                _require_depth(config, len(checkpoint.refs))
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust, dtype=dtype or config.dtype
            )
    except REFUSED as error:
        raise _unbuildable(checkpoint, error) from error
    model.eval()
    return model  # type: ignore[no-any-return]


def shared_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The same, made once for a config, for all who only look at it: nobody may change it."""
    if has_code(checkpoint):
        return empty_model(checkpoint)
    return _of_config(json.dumps(dict(checkpoint.config)))


@lru_cache(maxsize=8)
def _of_config(config: str) -> PreTrainedModel:
    return empty_model(Checkpoint(json.loads(config), {}))


def check_depth(checkpoint: Checkpoint, count_tensors: Callable[[], int]) -> None:
    """Refuse a config that asks for more layers than its files hold tensors.

    Raises:
        ModelError: it does, or transformers refuses it.
    """
    try:
        with _read_again(checkpoint, has_code(checkpoint)) as config:
            _require_depth(config, count_tensors())
    except REFUSED as error:
        raise _unbuildable(checkpoint, error) from error


def _require_depth(config: Any, num_tensors: int) -> None:
    """See that there are as many tensors as layers, before a module is made for each layer.

    Raises:
        ValueError: there are not, and the modules could take all memory.
    """
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layers > num_tensors:
        raise ValueError(f"it asks for {layers} layers of a model of {num_tensors} tensors")


def _require_depth_in(written: Mapping[str, Any]) -> None:
    """See that a config, as it is written, asks for no more layers than a model may have.

    Raises:
        ValueError: it does; transformers makes a list as long when it reads some of them.
    """
    for part in (written, *(value for value in written.values() if isinstance(value, dict))):
        for name in _DEPTHS:
            if isinstance(layers := part.get(name), int) and layers > _MOST_LAYERS:
                raise ValueError(f"it asks for {layers} layers, more than any model has")


def _unbuildable(checkpoint: Checkpoint, error: BaseException) -> ModelError:
    kind = checkpoint.config.get("model_type")
    return ModelError(f"no model can be built from the config of type '{kind}': {reason(error)}")


def text_config(checkpoint: Checkpoint) -> Any:
    """The config of the language model as transformers reads it: defaults in, nesting gone."""
    return shared_model(checkpoint).config.get_text_config(decoder=True)


def context_length(checkpoint: Checkpoint) -> int | None:
    """How many tokens the model's config says it takes; None where it does not say.

    Raises:
        ModelError: transformers refuses the config.
    """
    try:
        with _read_again(checkpoint, has_code(checkpoint)) as config:
            said = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    except REFUSED as error:
        raise _unbuildable(checkpoint, error) from error
    return said if isinstance(said, int) else None


def has_code(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint carries Python of its own, which it does only if the user said so."""
    return any(name.endswith(".py") for name in checkpoint.top_files)


@contextmanager
def _read_again(checkpoint: Checkpoint, trust: bool) -> Iterator[Any]:
    """The config as transformers' object; code the checkpoint carries lies at hand meanwhile."""
    _require_depth_in(checkpoint.config)
    plain = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    if not trust:
        kind = str(plain.get("model_type"))
        if kind not in CONFIG_MAPPING:
            raise ValueError("transformers does not know it")
        yield CONFIG_MAPPING[kind].from_dict(plain)
        return
    with tempfile.TemporaryDirectory() as parent:
        # transformers keeps imported code by the folder's name and content: one name, one copy.
        folder = Path(parent) / "checkpoint"
        folder.mkdir()
        for name, data in checkpoint.top_files.items():
            (folder / name).write_bytes(data)
        (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        yield AutoConfig.from_pretrained(folder, trust_remote_code=True)


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
