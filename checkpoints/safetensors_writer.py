"""Writing a safetensors file one tensor at a time.

The header follows from dtypes and shapes, so it is written first, and every tensor at its offset as
soon as it is loaded. Memory holds the tensor that is being written and a copy of a piece of it. The
file is, byte for byte, that of safetensors' own `save_file`, which holds all tensors at once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError, ResourceError
from .safetensors_layout import StoredTensor, safetensors_layout
from .tensors import check_dtype

PIECE_BYTES = 16 << 20
"""Largest part of a tensor that is copied at a time."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_safetensors(
    path: Path,
    outline: Mapping[str, StoredTensor],
    load: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    verbatim: Collection[str] = (),
) -> None:
    """Write a file, replacing what was there. It is not synced; if writing fails it is removed.

    Negative zeros become positive ones, because readers that look for zero bits would miss them.
    Float8 has no addition and keeps its negative zeros.

    Args:
        outline: dtype and shape of every tensor.
        load: returns a tensor by name; called once for each, in the order of ``outline``.
        verbatim: names whose values are written bit for bit, negative zeros included.

    Raises:
        CheckpointError: a dtype that cannot be saved, or a tensor of another dtype or shape than
            ``outline`` states.
        ResourceError: the disk or a quota is full.
    """
    for name, stated in outline.items():
        check_dtype(name, stated.dtype)
    layout = safetensors_layout(outline, metadata)
    try:
        with path.open("wb") as file:
            file.write(layout.head)
            for name, start in ((name, layout.starts[name]) for name in outline):
                file.seek(start)
                # The tensor is an argument only, so that it is freed before the next is loaded.
                _write(file, _checked(name, load(name), outline[name]), name in verbatim)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise ResourceError(
                f"'{path.name}' cannot be written: the disk is full ({layout.num_bytes:,} bytes "
                f"are needed); free some space, or give a folder on another disk"
            ) from error
        raise


def _checked(name: str, tensor: Tensor, stated: StoredTensor) -> Tensor:
    found = StoredTensor.of(tensor)
    if found != stated:
        raise CheckpointError(
            f"tensor '{name}' was announced as {stated.dtype} {stated.shape} and loaded as "
            f"{found.dtype} {found.shape}; the two must agree"
        )
    return tensor


def _write(file: BinaryIO, tensor: Tensor, verbatim: bool) -> None:
    has_addition = tensor.is_floating_point() and tensor.itemsize > 1
    for piece in _pieces(tensor):
        values = piece if verbatim or not has_addition else piece.add(0.0)
        file.write(values.view(torch.uint8).numpy().data)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The values in order, on the CPU, in vectors of at most `PIECE_BYTES`."""
    flat = tensor.detach().reshape(-1)
    step = PIECE_BYTES // tensor.itemsize
    for start in range(0, flat.numel(), step):
        yield flat[start : start + step].cpu()
