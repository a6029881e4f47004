"""Find the weight matrices of a block of any architecture.

A linear is found by type, not by name: an ``nn.Linear``, a GPT-2 ``Conv1D`` (stored transposed), or
one expert's slice of a 3-D parameter. Routers are excluded: they are tiny, and errors in them
change which experts are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from inspect import getsource, isfunction
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from ...checkpoints import Checkpoint
from ...errors import BirdboneError
from .empty_model import find_blocks, shared_model
from .experts_apart import stored_apart
from .initialising import initialising

Refusal = TypeVar("Refusal", bound=BirdboneError)


@dataclass(frozen=True)
class Linear:
    """One weight matrix, accessed as ``[out_features, in_features]`` however it is stored.

    Attributes:
        tensor: name of the checkpoint tensor that holds it.
        shape: (out_features, in_features).
        transposed: stored as ``[in_features, out_features]``.
        expert: index along the first axis of a 3-D tensor, or None.
        plain: an ``nn.Linear`` that is only called, which packed formats can hold. One whose
            ``weight`` the model's code reads, as Mamba does, has none once it is packed.
        initialised: the model's code reads its weight only while transformers loads the model
            (`initialising`). It is not plain, but bitsandbytes can hold it.
        apart: the matrix of an expert that files hold on its own (`experts_apart`).
            compressed-tensors can hold it, and bitsandbytes cannot.
    """

    tensor: str
    shape: tuple[int, int]
    transposed: bool = False
    expert: int | None = None
    plain: bool = True
    initialised: bool = False
    apart: bool = False

    @property
    def name(self) -> str:
        """Its name in messages and tables, such as ``model.layers.0.mlp.up_proj``."""
        base = self.tensor.removesuffix(".weight")
        return base if self.expert is None else f"{base}[{self.expert}]"

    @property
    def has_own_tensor(self) -> bool:
        """Whether ggml's blocks can hold it: plain, or GPT-2's transposed kind."""
        return self.plain or (self.transposed and self.expert is None)

    def view(self, stored: Tensor) -> Tensor:
        """The matrix ``[out_features, in_features]`` as a view of the stored tensor."""
        matrix = stored if self.expert is None else stored[self.expert]
        return matrix.T if self.transposed else matrix


def expert_kind(linear: Linear) -> str | None:
    """The name that a linear of an expert shares with the same linear of all other experts.

    Such as ``…mlp.experts.*.up_proj``; None for linears outside of experts.
    """
    if linear.expert is not None:
        return linear.tensor
    kind, count = re.subn(r"(?<=\bexperts\.)\d+(?=\.)", "*", linear.tensor)
    return kind if count else None


def named(linear: Linear, error: Refusal) -> Refusal:
    """Add the layer's name to the errors of a solver."""
    return type(error)(f"layer '{linear.name}': {error}")


def all_linears(checkpoint: Checkpoint) -> list[Linear]:
    """Every linear of every block, in order, from shapes alone."""
    return [linear for block in linears_by_block(checkpoint) for linear in block]


def linears_by_block(checkpoint: Checkpoint) -> list[list[Linear]]:
    """The linears of each block, from shapes alone."""
    path, blocks = find_blocks(shared_model(checkpoint))
    reads, experts = initialising(checkpoint).reads, stored_apart(checkpoint)

    def settled(linear: Linear) -> Linear:
        if linear.tensor in reads:
            return replace(linear, plain=False, initialised=linear.plain)
        return replace(linear, apart=True) if linear.tensor in experts else linear

    return [
        [settled(linear) for linear in find_linears(block, f"{path}.{index}.")]
        for index, block in enumerate(blocks)
    ]


def find_linears(block: nn.Module, prefix: str) -> list[Linear]:
    """Every linear of a block; ``prefix`` is the block's path in the model, with its last dot.

    What transformers does while it loads the model is not seen from a block alone:
    `linears_by_block` finds which linears are ``initialised``, and which are ``apart``.
    """
    read = _read_in(block)
    return [
        replace(linear, plain=linear.plain and path not in read)
        for path, module in block.named_modules()
        for linear in _of_module(module, f"{prefix}{path}.", _parent(block, path))
    ]


def _parent(block: nn.Module, path: str) -> nn.Module:
    return block.get_submodule(path.rpartition(".")[0])


def _read_in(block: nn.Module) -> set[str]:
    """Paths of the modules whose ``weight`` is read by code of an enclosing module."""
    return {
        f"{path}.{inner}".removeprefix(".")
        for path, module in block.named_modules()
        for inner in _weights_read_by(type(module))
    }


def _weights_read_by(kind: type[nn.Module]) -> set[str]:
    """The ``self.….weight`` that methods of a class read of modules which none of them calls."""
    methods = {
        name: value
        for each in reversed(kind.__mro__[: kind.__mro__.index(nn.Module)])
        for name, value in vars(each).items()
        if isfunction(value) and "init" not in name
    }
    read, called = set[str](), set[str]()
    for method in methods.values():
        read |= _paths(method, r"\.weight\b")
        called |= _paths(method, r"\(")
    return read - called


@cache
def _paths(method: Callable[..., object], following: str) -> frozenset[str]:
    """Every ``self.PATH`` in a method's code that a pattern follows."""
    try:
        source = getsource(method)
    except (OSError, TypeError):  # code without a file
        return frozenset()
    return frozenset(re.findall(rf"\bself\.(\w+(?:\.\w+)*){following}", source))


def _of_module(module: nn.Module, prefix: str, parent: nn.Module) -> Iterator[Linear]:
    if isinstance(module, nn.Linear):
        if not _is_router(module, parent):
            # A forward of its own, such as Falcon's, reads the weight that a packed one lacks.
            usual = type(module).forward is nn.Linear.forward
            yield Linear(f"{prefix}weight", (module.out_features, module.in_features), plain=usual)
    elif isinstance(module, Conv1D):
        yield Linear(f"{prefix}weight", (module.nf, module.nx), transposed=True, plain=False)
    elif not isinstance(module, _ConvNd):  # whose 3-D weights are kernels, not experts
        yield from _experts(module, prefix)


def _is_router(module: nn.Linear, parent: nn.Module) -> bool:
    experts = getattr(parent, "experts", None)
    if experts is None:
        return False
    is_list = isinstance(experts, nn.ModuleList)
    count = len(experts) if is_list else getattr(experts, "num_experts", None)
    # A gate of a shared expert has one output.
    return module.out_features in (1, count)


def _experts(module: nn.Module, prefix: str) -> Iterator[Linear]:
    transposed = bool(getattr(module, "is_transposed", False))
    for name, parameter in module.named_parameters(recurse=False):
        # Factors for each channel, such as those of RWKV, are stored with axes of one.
        if parameter.ndim == 3 and min(parameter.shape[1:]) > 1:
            count, rows, cols = parameter.shape
            shape = (cols, rows) if transposed else (rows, cols)
            for expert in range(count):
                yield Linear(f"{prefix}{name}", shape, transposed, expert, plain=False)
