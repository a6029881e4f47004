"""A store whose files are damaged, hostile or half-written."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from birdbone.checkpoints import Checkpoint, InMemory, ObjectStore
from birdbone.checkpoints import store as store_module
from birdbone.checkpoints.manifest import encode_manifest
from birdbone.errors import CheckpointError


def _load_everything(store: ObjectStore, id: str) -> None:
    for tensor in store.load(id).tensors.values():
        assert tensor.numel()


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_bit_anywhere_is_found_and_the_file_named(
    tmp_path: Path, every_kind: Checkpoint
) -> None:
    store = ObjectStore(tmp_path)
    id = store.save(every_kind)
    paths = [path for path in _paths(tmp_path) if path.stat().st_size]
    assert len(paths) == 8
    for path in paths:
        sound = path.read_bytes()
        for place in range(0, len(sound), 7):
            # The high bit, since a flipped blank between JSON tokens may still be a blank.
            data = bytearray(sound)
            data[place] ^= 0x80
            path.write_bytes(bytes(data))
            with pytest.raises(CheckpointError, match=f"{path.name}.*delete it and compute"):
                _load_everything(store, id)
        path.write_bytes(sound)
    _load_everything(store, id)


def test_a_truncated_file_is_found_and_named(tmp_path: Path, every_kind: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    id = store.save(every_kind)
    for path in [path for path in _paths(tmp_path) if path.stat().st_size]:
        sound = path.read_bytes()
        for length in (0, len(sound) // 2, len(sound) - 1):
            path.write_bytes(sound[:length])
            with pytest.raises(CheckpointError, match=path.name):
                _load_everything(store, id)
        path.write_bytes(sound)


def test_a_missing_file_is_named(tmp_path: Path, every_kind: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    id = store.save(every_kind)
    for path in _paths(tmp_path):
        sound = path.read_bytes()
        path.unlink()
        with pytest.raises(CheckpointError, match=f"the store lacks .*{path.name}.*compute"):
            _load_everything(store, id)
        path.write_bytes(sound)


@pytest.mark.parametrize("name", ["plain", "symmetric", "nf4"])
def test_an_object_with_other_parts_is_named(
    tmp_path: Path, every_kind: Checkpoint, name: str
) -> None:
    store = ObjectStore(tmp_path)
    id = store.save(every_kind)
    key = every_kind.refs[name].digest
    path = tmp_path / "objects" / key[:2] / f"{key}.safetensors"
    save_file({f"{part}_": value for part, value in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        _load_everything(store, id)


@pytest.mark.parametrize(
    "change",
    [{"source": "other/model"}, {"parent": None}, {"config": {"model_type": "big"}}, {"files": {}}],
)
def test_an_edited_manifest_is_found(tmp_path: Path, every_kind: Checkpoint, change: Any) -> None:
    store = ObjectStore(tmp_path)
    path = tmp_path / "manifests" / f"{store.save(every_kind)}.json"
    whole = json.loads(path.read_text())
    whole["manifest"].update(change)
    path.write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged: .*checksum does not match"):
        store.load(every_kind.id)


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"config": [], "files": {}, "tensors": {}, "source": "", "parent": None},
        {"config": {}, "files": [], "tensors": {}, "source": "", "parent": None},
        {"config": {}, "files": {}, "tensors": {"a": 1}, "source": "", "parent": None},
        {"config": {}, "files": {}, "tensors": {}, "source": ""},
        {"config": {}, "files": {}, "tensors": {}, "source": "", "parent": None},
    ],
)
def test_a_sealed_manifest_of_another_shape_is_refused(tmp_path: Path, manifest: Any) -> None:
    path = _plant(tmp_path, encode_manifest(manifest))
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        ObjectStore(tmp_path).load(path.stem)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"manifest":1}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: bytes) -> None:
    path = _plant(tmp_path, data)
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        ObjectStore(tmp_path).load(path.stem)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path, small: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    path = tmp_path / "manifests" / f"{store.save(small)}.json"
    manifest = {**json.loads(path.read_text())["manifest"], "version": 2}
    checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"manifest": manifest, "sha256": checksum}))
    with pytest.raises(CheckpointError, match="it has version 2, this store reads 1"):
        store.load(small.id)


def test_a_manifest_that_lies_about_a_shape_is_found(tmp_path: Path, small: Checkpoint) -> None:
    store = ObjectStore(tmp_path)
    path = tmp_path / "manifests" / f"{store.save(small)}.json"
    manifest = json.loads(path.read_text())["manifest"]
    manifest["tensors"]["a"]["shape"] = [2, 2]
    path.write_bytes(encode_manifest(manifest))
    found = store.load(small.id)
    with pytest.raises(CheckpointError, match=r"is torch\.float32 \(4,\), not the .* \(2, 2\)"):
        found.tensors["a"]


@pytest.mark.parametrize("key", ["../../x", "/a/b", "..", "", "ab" * 31 + "/x", "A" * 64, 7, None])
@pytest.mark.parametrize("place", ["files", "plain", "quantized", "bitsandbytes"])
def test_keys_cannot_lead_outside(tmp_path: Path, key: Any, place: str) -> None:
    entry = {"kind": place, "digest": key, "dtype": "float32", "shape": [1]}
    manifest = {
        "config": {},
        "files": {"f": key} if place == "files" else {},
        "tensors": {} if place == "files" else {"a": entry},
        "source": "",
        "parent": None,
    }
    path = _plant(tmp_path, encode_manifest(manifest))
    with pytest.raises(CheckpointError, match="is not a key of the store; give 64 hexadecimal"):
        ObjectStore(tmp_path).load(path.stem)


@pytest.mark.parametrize("dtype", ["load", "nn", "complex64", "Tensor"])
def test_a_manifest_cannot_name_another_part_of_torch(tmp_path: Path, dtype: str) -> None:
    entry = {"kind": "plain", "digest": "0" * 64, "dtype": dtype, "shape": [1]}
    manifest = {"config": {}, "files": {}, "tensors": {"a": entry}, "source": "", "parent": None}
    path = _plant(tmp_path, encode_manifest(manifest))
    with pytest.raises(CheckpointError, match=f"is damaged: KeyError\\('{dtype}'\\)"):
        ObjectStore(tmp_path).load(path.stem)


@pytest.mark.parametrize("id", ["../../x", "", "abc", "/etc/passwd", "x\0"])
def test_ids_cannot_lead_outside(tmp_path: Path, id: str) -> None:
    with pytest.raises(CheckpointError, match="is not a key of the store"):
        ObjectStore(tmp_path).load(id)


def test_an_unknown_id_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"the store lacks .*part of checkpoint {'0' * 64}"):
        ObjectStore(tmp_path).load("0" * 64)


class Crash(BaseException):
    """Stands for anything, a keyboard interrupt included, that stops a write."""


@pytest.mark.parametrize("function", ["save_file", "replace", "fsync"])
@pytest.mark.parametrize("survived", range(4))
def test_a_crash_leaves_whole_files_only(
    tmp_path: Path, small: Checkpoint, monkeypatch: pytest.MonkeyPatch, function: str, survived: int
) -> None:
    owner: Any = store_module if function == "save_file" else store_module.os
    genuine, calls = getattr(owner, function), 0

    def crashing(*args: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= survived:
            return genuine(*args, **settings)
        if function == "save_file":
            Path(args[1]).write_bytes(b"half")
        raise Crash

    store = ObjectStore(tmp_path)
    kept = store.save(Checkpoint({}, {"other": InMemory(torch.ones(5))}))
    # Four renames make one save of this checkpoint: a file, two objects, the manifest.
    if function != "save_file" or survived < 2:
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, crashing)
            with pytest.raises(Crash):
                store.save(small)
        assert store.ids() == [kept]
    assert not list(tmp_path.rglob("*.part"))
    for path in (tmp_path / "objects").rglob("*.safetensors"):
        assert load_file(path)
    _load_everything(store, kept)
    _load_everything(store, store.save(small))


def _plant(folder: Path, data: bytes) -> Path:
    """A manifest written past the store, under an id that looks right."""
    path = folder / "manifests" / f"{'1' * 64}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path
