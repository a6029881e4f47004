"""Checkpoints on disk as objects named by the hash of their content.

A checkpoint that shares tensors with a stored one costs only the changed tensors.

Layout: ``objects/ab/abcd….safetensors`` holds the tensors of one reference, ``files/`` the small
files, ``manifests/ID.json`` one checkpoint each. Every file is written to a temporary name, synced
and renamed, so a crash leaves only complete files. Everything read is verified: objects and files
against the hash in their name, manifests against the checksum inside.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import Checkpoint, LeftOut
from .coded import BitsAndBytes, Coded, GgmlBlocks, Quantized
from .durable import rename_synced, write_durably
from .manifest import decode_manifest, encode_manifest
from .tensors import DTYPES, InMemory, TensorRef, check_dtype, digest

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Stored(TensorRef):
    """A plain tensor stored as an object."""

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
        self._store.mark_verified(self._digest)
        if (tensor.dtype, tuple(tensor.shape)) != (self.dtype, self.shape):
            raise CheckpointError(
                f"object {self._digest} is {tensor.dtype} {tuple(tensor.shape)}, not the "
                f"{self.dtype} {self.shape} listed in its manifest; compute the checkpoint again"
            )
        return tensor


class StoredParts(TensorRef):
    """What quantised weights stored as objects share: parts are read each time they are needed."""

    def __init__(self, store: ObjectStore, key: str, entry: Mapping[str, Any]) -> None:
        self._store, self._key, self._entry = store, key, entry
        self._set_outline(store.outline(key))

    def _set_outline(self, parts: Mapping[str, Tensor]) -> None:
        """Set what is known without values, from the parts on the meta device."""
        raise NotImplementedError

    @cached_property
    def digest(self) -> str:
        return self._key

    def parts(self) -> Mapping[str, Tensor]:
        return tensors_of(self._store.coded(self._key, self._entry))


class StoredCodes(StoredParts, Quantized):
    """A quantised weight stored as an object."""

    def _set_outline(self, parts: Mapping[str, Tensor]) -> None:
        self.input_activations = self._entry.get("input_activations")
        self._describe(
            parts["codes"],
            parts["scales"],
            bits=self._entry["bits"],
            symmetric="zero_points" not in parts,
            block_size=self._entry.get("block_size"),
            float4=self._entry.get("float4"),
        )


class StoredBlocks(StoredParts, GgmlBlocks):
    """A weight in blocks of a ggml type stored as an object."""

    def _set_outline(self, parts: Mapping[str, Tensor]) -> None:
        kind, transposed = self._entry["format"], self._entry["transposed"]
        self._describe(parts["blocks"], kind=kind, transposed=transposed)


class ObjectStore:
    """A folder of checkpoints that share unchanged tensors."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._verified: set[str] = set()  # keys of objects this process wrote or verified

    def save(self, checkpoint: Checkpoint) -> str:
        """Store a checkpoint and return its id. Objects already stored intact are not rewritten.

        Raises:
            CheckpointError: a tensor has a dtype that cannot be saved.
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
        write_durably(self._manifest(checkpoint.id), encode_manifest(manifest))
        return checkpoint.id

    def load(self, id: str) -> Checkpoint:
        """Return the checkpoint with that id. Plain tensors stay on disk until they are accessed.

        Raises:
            CheckpointError: the checkpoint is unknown or damaged, or its content does not match its
                id.
        """
        path = self._manifest(id)
        try:
            found = self._checkpoint(decode_manifest(path.read_bytes()))
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

    def keep(self, tensor: Tensor | TensorRef) -> dict[str, Any]:
        """Store a single tensor and return a JSON-compatible entry for `tensor` and `ref`."""
        return self._keep(InMemory(tensor) if isinstance(tensor, Tensor) else tensor)

    def ref(self, entry: Mapping[str, Any]) -> TensorRef:
        """Return a reference that reads what `keep` stored when it is needed.

        Raises:
            CheckpointError: the object is missing or its header is damaged, or ``entry`` is not
                valid.
        """
        try:
            return self._ref(entry)
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"{entry!r} is not a tensor entry: {error!r}") from error

    def tensor(self, entry: Mapping[str, Any]) -> Tensor:
        """Return the tensor for which `keep` returned ``entry``.

        Raises:
            CheckpointError: the tensor is missing or damaged, or ``entry`` is not valid.
        """
        return self.ref(entry).load()

    def ids(self) -> list[str]:
        """Return the ids of all stored checkpoints, sorted."""
        return sorted(path.stem for path in (self.folder / "manifests").glob("*.json"))

    def read(self, key: str) -> dict[str, Tensor]:
        """Return the tensors of one object, by name.

        Raises:
            CheckpointError: the object is missing or unreadable.
        """
        path = self._object(key)
        try:
            # Copied, because a memory-mapped tensor may be unaligned, and the rounding of some
            # kernels depends on alignment.
            return {name: tensor.clone() for name, tensor in load_file(path).items()}
        except FileNotFoundError as error:
            raise CheckpointError(f"the store lacks {path}; compute it again") from error
        except (OSError, SafetensorError) as error:
            raise _damaged(path, str(error)) from error

    def coded(self, key: str, entry: Mapping[str, Any]) -> TensorRef:
        """Return a quantised weight with its tensors in memory, verified against its key.

        Raises:
            CheckpointError: the object is missing or damaged.
        """
        parts = self.read(key)
        try:
            ref = build_ref(entry, parts)
        except (KeyError, CheckpointError) as error:
            raise _damaged(self._object(key), repr(error)) from error
        if ref.digest != key:
            raise self.mismatch(key)
        self.mark_verified(key)
        return ref

    def outline(self, key: str) -> dict[str, Tensor]:
        """Return the tensors of an object on the meta device; only its header is read.

        Raises:
            CheckpointError: the object is missing or its header is damaged.
        """
        path = self._object(key)
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                return {
                    name: torch.empty(
                        each.get_shape(), dtype=DTYPES[each.get_dtype()], device="meta"
                    )
                    for name, each in slices.items()
                }
        except FileNotFoundError as error:
            raise CheckpointError(f"the store lacks {path}; compute it again") from error
        except (OSError, SafetensorError, LookupError) as error:
            raise _damaged(path, str(error)) from error

    def mark_verified(self, key: str) -> None:
        """Record that an object's content was verified against its name."""
        self._verified.add(key)

    def mismatch(self, key: str) -> CheckpointError:
        """Return the error for an object whose content does not match its name."""
        return _damaged(self._object(key), "its content does not match its name")

    def _keep(self, ref: TensorRef) -> dict[str, Any]:
        entry = {**entry_of(ref), "digest": ref.digest}
        if not self._holds(entry):
            self._write_object(ref.digest, tensors_of(ref))
            self._verified.add(ref.digest)
        return entry

    def _holds(self, entry: Mapping[str, Any]) -> bool:
        """Return whether an intact object is stored; a damaged one will be written again."""
        key = entry["digest"]
        if not self._object(key).exists():
            return False
        if key not in self._verified:
            try:
                self._ref(entry).load()
            except CheckpointError:
                return False
            self._verified.add(key)
        return True

    def _ref(self, entry: Mapping[str, Any]) -> TensorRef:
        kind, key = entry["kind"], entry["digest"]
        if kind == "plain":
            return Stored(self, _key(key), _DTYPES[entry["dtype"]], tuple(entry["shape"]))
        if kind in _LAZY:
            try:
                return _LAZY[kind](self, _key(key), entry)
            except LookupError as error:
                raise _damaged(self._object(key), repr(error)) from error
        return self.coded(_key(key), entry)

    def _write_object(self, key: str, parts: Mapping[str, Tensor]) -> None:
        path = self._object(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            save_file(_without_shared_memory(parts), aside)
            rename_synced(Path(aside), path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    def _keep_file(self, data: bytes) -> str:
        key = hashlib.sha256(data).hexdigest()
        path = self.folder / "files" / key
        if not path.exists() or path.read_bytes() != data:
            write_durably(path, data)
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


_LAZY: Mapping[str, type[StoredParts]] = {"quantized": StoredCodes, "ggml": StoredBlocks}


def _key(text: object) -> str:
    """Return ``text`` if it is a hash, so that no manifest can point outside the store."""
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise CheckpointError(
            f"{text!r} is not a key of the store; give 64 hexadecimal digits, as listed by ids()"
        )
    return text


def entry_of(ref: TensorRef) -> dict[str, Any]:
    """Return what describes a reference besides its tensors, JSON-compatible; see `build_ref`."""
    entry: dict[str, Any] = {"kind": "plain"}
    if isinstance(ref, Quantized):
        entry.update(kind="quantized", bits=ref.bits)
        for name in ("input_activations", "block_size", "float4"):
            if getattr(ref, name) is not None:
                entry[name] = getattr(ref, name)
    elif isinstance(ref, BitsAndBytes):
        entry.update(kind="bitsandbytes", format=ref.kind)
    elif isinstance(ref, GgmlBlocks):
        entry.update(kind="ggml", format=ref.kind, transposed=ref.transposed)
    else:
        entry.update(dtype=str(ref.dtype).removeprefix("torch."), shape=list(ref.shape))
    return entry


def tensors_of(ref: TensorRef) -> Mapping[str, Tensor]:
    """Return the tensors a reference consists of, by name."""
    if isinstance(ref, Coded):
        return ref.parts()
    return {"values": ref.load()}


def build_ref(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> TensorRef:
    """Return the reference described by the results of `entry_of` and `tensors_of`.

    Raises:
        KeyError, CheckpointError: the parts do not belong to such a reference.
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
            input_activations=entry.get("input_activations"),
            block_size=entry.get("block_size"),
            float4=entry.get("float4"),
            global_scale=parts.get("global_scale"),
        )
    if kind == "ggml":
        return GgmlBlocks(parts["blocks"], kind=entry["format"], transposed=entry["transposed"])
    return BitsAndBytes(InMemory(parts["source"]), parts["values"], kind=entry["format"])


def _without_shared_memory(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors; safetensors refuses several that share memory."""
    ready = {name: part.detach().cpu().contiguous() for name, part in parts.items()}
    return {name: part.clone() for name, part in ready.items()} if len(ready) > 1 else ready


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}; delete it and compute the checkpoint again")
