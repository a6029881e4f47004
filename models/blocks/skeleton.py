"""A transformers model whose blocks are loaded one at a time.

The modules are built on the meta device, so a model of any size takes no memory until its tensors
are loaded. A pass over the blocks holds the embeddings, the head and one block, while the tensors
of the next block are read in a second thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...checkpoints import Checkpoint, InMemory, Quantized, TensorRef
from ...checkpoints.allocator import release_unused_memory
from ...errors import CheckpointError, ModelError
from .device import compute_dtype, default_device
from .empty_model import empty_model, find_blocks, tie, tied_parameters
from .rounded_inputs import RoundedInputs
from .shared_state import Layout


class Skeleton:
    """A checkpoint as transformers modules, materialised block by block.

    Attributes:
        checkpoint: the source of the tensors.
        model: the transformers model; parameters not in use are on the meta device.
        path: module path of the blocks, such as ``model.layers``.
        blocks: the decoder blocks, in order.
        device, dtype: device and compute dtype of the blocks.
        rest: device of the hidden states between blocks (`activations`); set by `capture`.
        layout: how the blocks return their output; None until it was determined.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.layout: Layout | None = None
        self.device = self.rest = device or default_device()
        self.dtype = dtype or compute_dtype(checkpoint, self.device)
        self.model = empty_model(checkpoint, dtype=self.dtype)
        self.path, self.blocks = find_blocks(self.model)
        self._rounded = RoundedInputs(self.model)
        self._check_complete()
        self._check_apart()
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)
        self._fill(self._outside())
        tie(self.model)
        for name, ref in checkpoint.refs.items():
            self._rounded.follow(name, ref)

    def block_names(self, index: int) -> list[str]:
        """Names of the tensors of one block."""
        prefix = f"{self.path}.{index}."
        return [name for name in self.checkpoint.refs if name.startswith(prefix)]

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """One block with its tensors loaded, inside the context."""
        try:
            yield self._materialise(index, self._read(self.block_names(index)))
        finally:
            self._release(index)
            release_unused_memory()

    def each_block(self, start: int = 0) -> Iterator[tuple[int, nn.Module]]:
        """Every block from ``start`` on, one loaded at a time, with the next one read ahead."""
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
                    release_unused_memory()

    def fill(
        self, settle: Callable[[str, nn.Module], None] = lambda path, block: None
    ) -> PreTrainedModel:
        """The whole model with copies of all tensors, ready for training.

        ``settle`` is called with every block and its path after its tensors are loaded and before
        the next block is read.
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
        """Replace one tensor of a loaded block, and whether its linear rounds its inputs."""
        ref = InMemory(value) if isinstance(value, Tensor) else value
        self._fill({name: self._value(ref)})
        self._rounded.follow(name, ref)

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
        for name in tensors:  # which another pass may have put others in place of
            self._rounded.follow(name, self.checkpoint.refs[name])
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
        tied = tied_parameters(self.model)
        known = self.model.state_dict()
        for name, wanted in known.items():
            if name not in tied:
                self._check_tensor(name, tuple(wanted.shape))
        for name in self.checkpoint.refs.keys() - known.keys():
            raise CheckpointError(
                f"the checkpoint holds tensor '{name}', for which {type(self.model).__name__} has "
                f"no parameter; keep it among the unused tensors of the checkpoint"
            )

    def _check_apart(self) -> None:
        """Refuse weights that several blocks share: each block would be solved separately."""
        inside = f"{self.path}."
        for name, source in tied_parameters(self.model).items():
            if name.startswith(inside) and source.startswith(inside):
                raise ModelError(
                    f"the blocks of {type(self.model).__name__} share weights ('{name}' is "
                    f"'{source}'); such a model cannot be taken block by block"
                )

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
