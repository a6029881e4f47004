"""Checkpoints on disk as objects named by their content: a changed tensor costs one new object.

Layout: ``objects/ab/abcd….safetensors`` holds one reference's tensors, ``files/`` the small files,
``manifests/ID.json`` a checkpoint. Everything is written aside, synced and renamed, so a crash
leaves whole objects only; what is read is checked against its name, a manifest against the
checksum inside it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import Checkpoint, LeftOut
from .durable import publish, rename_synced
from .manifest import sealed, unsealed
from .tensors import (
    DTYPES,
    BitsAndBytes,
    Coded,
    GgmlBlocks,
    InMemory,
    Quantized,
    TensorRef,
    check_dtype,
    digest,
)

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Stored(TensorRef):
    """A plain tensor kept as an object of a store."""

    def __init__(
        self, store: ObjectStore, digest: str, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        self._store, self._digest = store, digest
        self.dtype, self.shape = dtype, shape

    @cached_property
    def digest(self) -> str:
        return self._digest

    def load(self) -> Tensor:
        tensor = self._store.read(self._digest).get("values")
        if tensor is None or digest(tensor) != self._digest:
            raise self._store.mismatch(self._digest)
        self._store.sound(self._digest)
        if (tensor.dtype, tuple(tensor.shape)) != (self.dtype, self.shape):
            raise CheckpointError(
                f"object {self._digest} is {tensor.dtype} {tuple(tensor.shape)}, not the "
                f"{self.dtype} {self.shape} its manifest says; compute the checkpoint again"
            )
        return tensor


class ObjectStore:
    """A folder of checkpoints that share their unchanged tensors."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._sound: set[str] = set()  # objects this process wrote, or has held against their name

    def save(self, checkpoint: Checkpoint) -> str:
        """Keep a checkpoint; returns its id. Sound objects already there are not written again.

        Raises:
            CheckpointError: a tensor of a dtype that cannot be saved.
        """
        for name, ref in (*checkpoint.refs.items(), *checkpoint.unused.items()):
            check_dtype(name, ref.dtype)
        manifest: dict[str, Any] = {
            "config": dict(checkpoint.config),
            "source": checkpoint.source,
            "parent": checkpoint.parent,
            "files": {name: self._keep_file(data) for name, data in checkpoint.files.items()},
            "tensors": {name: self._keep(ref) for name, ref in checkpoint.refs.items()},
        }
        if checkpoint.unused:
            manifest["unused"] = {n: self._keep(ref) for n, ref in checkpoint.unused.items()}
        if checkpoint.left_out:
            manifest["left_out"] = [asdict(each) for each in checkpoint.left_out]
        publish(self._manifest(checkpoint.id), sealed(manifest))
        return checkpoint.id

    def load(self, id: str) -> Checkpoint:
        """The checkpoint of that id, its plain tensors left on disk until asked for.

        Raises:
            CheckpointError: unknown, damaged, or its content no longer gives its id.
        """
        path = self._manifest(id)
        try:
            found = self._checkpoint(unsealed(path.read_bytes()))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"the store lacks {error.filename}, part of checkpoint {id}; compute it again"
            ) from error
        except _UNREADABLE as error:
            raise _damaged(path, repr(error)) from error
        if found.id != id:
            raise _damaged(path, f"its content has id {found.id}")
        return found

    def _checkpoint(self, manifest: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(
            manifest["config"],
            {name: self._ref(entry) for name, entry in manifest["tensors"].items()},
            {name: self._read_file(key) for name, key in manifest["files"].items()},
            source=manifest["source"],
            parent=manifest["parent"],
            unused={name: self._ref(entry) for name, entry in manifest.get("unused", {}).items()},
            left_out=tuple(LeftOut(**each) for each in manifest.get("left_out", ())),
        )

    def keep(self, tensor: Tensor) -> dict[str, Any]:
        """Keep one tensor by itself; returns what `tensor` finds it by, in types JSON knows."""
        return self._keep(InMemory(tensor))

    def tensor(self, entry: Mapping[str, Any]) -> Tensor:
        """The tensor that `keep` gave ``entry`` for.

        Raises:
            CheckpointError: missing, damaged, or an entry that is none.
        """
        try:
            return self._ref(entry).load()
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"{entry!r} is no entry of a tensor: {error!r}") from error

    def ids(self) -> list[str]:
        """Ids of the checkpoints kept here, sorted."""
        return sorted(path.stem for path in (self.folder / "manifests").glob("*.json"))

    def read(self, key: str) -> dict[str, Tensor]:
        """The tensors of one object.

        Raises:
            CheckpointError: missing or unreadable.
        """
        path = self._object(key)
        try:
            # Copies: a mapped file lies at any address, and kernels may round by alignment.
            return {name: tensor.clone() for name, tensor in load_file(path).items()}
        except FileNotFoundError as error:
            raise CheckpointError(f"the store lacks {path}; compute it again") from error
        except (OSError, SafetensorError) as error:
            raise _damaged(path, str(error)) from error

    def sound(self, key: str) -> None:
        """Take note that an object was held against its name and matched."""
        self._sound.add(key)

    def mismatch(self, key: str) -> CheckpointError:
        """The error for an object that no longer holds what its name says."""
        return _damaged(self._object(key), "its content does not match its name")

    def _keep(self, ref: TensorRef) -> dict[str, Any]:
        entry = {**entry_of(ref), "digest": ref.digest}
        if not self._holds(entry):
            self._write_object(ref.digest, parts_of(ref))
            self._sound.add(ref.digest)
        return entry

    def _holds(self, entry: Mapping[str, Any]) -> bool:
        """Whether the object is there and sound; a damaged one is to be written again."""
        key = entry["digest"]
        if not self._object(key).exists():
            return False
        if key not in self._sound:
            try:
                self._ref(entry).load()
            except CheckpointError:
                return False
            self._sound.add(key)
        return True

    def _ref(self, entry: Mapping[str, Any]) -> TensorRef:
        kind, key = entry["kind"], entry["digest"]
        if kind == "plain":
            return Stored(self, _key(key), _DTYPES[entry["dtype"]], tuple(entry["shape"]))
        parts = self.read(key)
        try:
            ref = put_together(entry, parts)
        except (KeyError, CheckpointError) as error:
            raise _damaged(self._object(key), repr(error)) from error
        if ref.digest != key:
            raise self.mismatch(key)
        self.sound(key)
        return ref

    def _write_object(self, key: str, parts: Mapping[str, Tensor]) -> None:
        path = self._object(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            save_file(_apart(parts), aside)
            rename_synced(Path(aside), path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    def _keep_file(self, data: bytes) -> str:
        key = hashlib.sha256(data).hexdigest()
        path = self.folder / "files" / key
        if not path.exists() or path.read_bytes() != data:
            publish(path, data)
        return key

    def _read_file(self, key: str) -> bytes:
        path = self.folder / "files" / _key(key)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != key:
            raise _damaged(path, "its content does not match its name")
        return data

    def _object(self, key: str) -> Path:
        return self.folder / "objects" / _key(key)[:2] / f"{key}.safetensors"

    def _manifest(self, id: str) -> Path:
        return self.folder / "manifests" / f"{_key(id)}.json"


def _key(text: object) -> str:
    """A name that can only be a hash, so that no manifest leads out of the store."""
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise CheckpointError(
            f"{text!r} is no key of the store; give 64 hexadecimal digits, as ids() lists them"
        )
    return text


def entry_of(ref: TensorRef) -> dict[str, Any]:
    """What a reference is beside its parts, in types JSON knows; see `put_together`."""
    entry: dict[str, Any] = {"kind": "plain"}
    if isinstance(ref, Quantized):
        entry.update(kind="quantized", bits=ref.bits)
    elif isinstance(ref, BitsAndBytes):
        entry.update(kind="bitsandbytes", format=ref.kind)
    elif isinstance(ref, GgmlBlocks):
        entry.update(kind="ggml", format=ref.kind, transposed=ref.transposed)
    else:
        entry.update(dtype=str(ref.dtype).removeprefix("torch."), shape=list(ref.shape))
    return entry


def parts_of(ref: TensorRef) -> Mapping[str, Tensor]:
    """The tensors a reference is made of, by name."""
    if isinstance(ref, Coded):
        return ref.parts()
    return {"values": ref.load()}


def put_together(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> TensorRef:
    """The reference that `entry_of` and `parts_of` describe.

    Raises:
        KeyError, CheckpointError: the parts are not those of such a reference.
    """
    kind = entry["kind"]
    if kind == "plain":
        return InMemory(parts["values"])
    if kind == "quantized":
        return Quantized(
            parts["codes"],
            parts["scales"],
            bits=entry["bits"],
            zero_points=parts.get("zero_points"),
        )
    if kind == "ggml":
        return GgmlBlocks(parts["blocks"], kind=entry["format"], transposed=entry["transposed"])
    return BitsAndBytes(InMemory(parts["source"]), parts["values"], kind=entry["format"])


def _apart(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts ready to be written: safetensors refuses several that share memory."""
    ready = {name: part.detach().cpu().contiguous() for name, part in parts.items()}
    return {name: part.clone() for name, part in ready.items()} if len(ready) > 1 else ready


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}; delete it and compute the checkpoint again")
