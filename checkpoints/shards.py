"""Reading and writing folders of sharded safetensors files."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .safetensors_layout import StoredTensor
from .safetensors_writer import write_safetensors
from .tensors import DTYPES, InShard, TensorRef

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
METADATA: Mapping[str, str] = MappingProxyType({"format": "pt"})
"""The metadata in the header of every weight file."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def shard_paths(folder: Path) -> list[Path]:
    """Return the weight files of a folder, sorted.

    Where there are both a single file and shards with an index, the single file is used, as
    transformers does, unless it lacks tensors that the shards hold.

    Raises:
        CheckpointError: there are no safetensors files, a listed shard is missing, or the index
            names a file outside the folder.
    """
    single, index = ((folder / name).is_file() for name in (SINGLE, INDEX))
    if not single and not index:
        raise CheckpointError(_no_weights(folder))
    if single and not (index and _lacking(folder)):
        return [folder / SINGLE]
    return _shards(folder)


def chosen_weights(folder: Path) -> str | None:
    """Return which weight file was chosen and why, if a folder holds two sets of weights.

    None if there is one set. The text continues a sentence that starts with the model's name.
    """
    if not all((folder / name).is_file() for name in (SINGLE, INDEX)):
        return None
    if set(_weight_map(folder).values()) == {SINGLE}:
        return None
    lacking = _lacking(folder)
    if lacking:
        return (
            f"holds {SINGLE} and also shards with an index; the shards were used, because {SINGLE} "
            f"lacks {len(lacking)} of their tensors, such as '{lacking[0]}'; delete {SINGLE}"
        )
    return (
        f"holds {SINGLE} and also shards with an index; {SINGLE} was used, as transformers does; "
        f"delete the files that are not needed"
    )


def _lacking(folder: Path) -> list[str]:
    """Return the tensors of complete shards that the single file does not hold."""
    try:
        held = sorted(name for path in _shards(folder) for name in _open_shard(path))
    except CheckpointError:
        return []  # incomplete shards cannot replace the single file
    try:
        single = _open_shard(folder / SINGLE)
    except CheckpointError:
        return held
    return [name for name in held if name not in single]


def _shards(folder: Path) -> list[Path]:
    """Return the files that an index names, sorted."""
    names = sorted(set(_weight_map(folder).values()))
    # Compared with a listing, not with is_file(), so that no file outside the folder is touched.
    present = {path.name for path in folder.iterdir()}
    for name in names:
        if Path(name).name != name or name in {"", ".."}:
            raise CheckpointError(f"{INDEX} names {name!r}, which lies outside the folder; refused")
        if name not in present:
            raise CheckpointError(f"shard {name!r} is missing from {folder}; fetch it again")
    return [folder / name for name in names]


def _weight_map(folder: Path) -> dict[str, str]:
    """Return tensor name to shard file name, as listed in the index."""
    try:
        weights = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {name: _text(shard) for name, shard in weights.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{INDEX} is not a shard index ({error!r}); fetch it again") from None


def _text(shard: object) -> str:
    if not isinstance(shard, str):
        raise TypeError(f"{shard!r} is not a file name")
    return shard


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} holds pickled weights ({pickles[0]}), which can run code when opened and "
            f"are refused; save the model as safetensors first"
        )
    others = sorted(path.name for kind in ("*.safetensors", "*.gguf") for path in folder.glob(kind))
    found = f", found {others[0]}" if others else ""
    return f"{folder} holds no safetensors weights; expected {SINGLE} or {INDEX}{found}"


def open_folder(folder: Path) -> dict[str, TensorRef]:
    """Return references to all tensors of a folder. Reads file headers only.

    Raises:
        CheckpointError: as `shard_paths`; or a shard is damaged, a dtype is not supported, the
            index lists a tensor that its shard does not hold, or there are no tensors at all.
    """
    opened = {path.name: _open_shard(path) for path in shard_paths(folder)}
    refs: dict[str, TensorRef] = {n: ref for shard in opened.values() for n, ref in shard.items()}
    if SINGLE not in opened:
        refs.update(_listed(folder, opened))
    if not refs:
        raise CheckpointError(f"the weights in {folder} hold no tensors; fetch them again")
    return refs


def _listed(folder: Path, opened: Mapping[str, Mapping[str, InShard]]) -> dict[str, InShard]:
    """Return the tensors listed in the index, each from the shard it names."""
    refs = {}
    for name, shard in _weight_map(folder).items():
        if name not in opened[shard]:
            raise CheckpointError(
                f"{INDEX} lists tensor {name!r} in {shard}, which does not hold it; "
                f"fetch {shard} again"
            )
        refs[name] = opened[shard][name]
    return refs


def _open_shard(path: Path) -> dict[str, InShard]:
    refs = {}
    try:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - safe_open is not a mapping
                part = shard.get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                if dtype is None:
                    raise CheckpointError(
                        f"tensor {name!r} in {path.name} has dtype {part.get_dtype()}, "
                        f"which is not supported; known: {', '.join(DTYPES)}"
                    )
                refs[name] = InShard(path, name, dtype, tuple(part.get_shape()))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} is damaged ({error}); fetch it again") from error
    return refs


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Group names, in order, into shards of at most ``max_bytes``; a larger tensor gets its own."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= size
    return shards


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    outline: Mapping[str, StoredTensor],
    *,
    max_bytes: int,
    verbatim: Collection[str] = (),
) -> list[Path]:
    """Write tensors as safetensors shards with an index. Holds one tensor in memory at a time.

    Args:
        folder: an existing folder. Files appear there under their final names, so pass a temporary
            one.
        tensors: name to tensor; each is read once, in the order of ``outline``, so the mapping may
            load lazily.
        outline: name to dtype and shape, to plan the shards and write headers without loading.
        max_bytes: maximum size of a shard, unless a single tensor is larger.
        verbatim: names whose values are written bit for bit, negative zeros included.

    Returns:
        The weight files written.

    Raises:
        CheckpointError: no tensors, a dtype that cannot be saved, or ``tensors`` and ``outline``
            differ in names, dtypes or shapes.
        ResourceError: the disk or a quota is full.
    """
    odd = sorted(tensors.keys() ^ outline.keys())
    if odd:
        raise CheckpointError(
            f"tensor '{odd[0]}' has no outline or no values; give both for every tensor"
        )
    sizes = {name: each.num_bytes for name, each in outline.items()}
    shards = plan_shards(sizes, max_bytes)
    if not shards:
        raise CheckpointError("a checkpoint without tensors cannot be saved")
    paths = [folder / _shard_name(place, len(shards)) for place in range(len(shards))]
    weight_map = {}
    for path, names in zip(paths, shards, strict=True):
        here = {name: outline[name] for name in names}
        write_safetensors(path, here, tensors.__getitem__, METADATA, verbatim=verbatim)
        weight_map.update(dict.fromkeys(names, path.name))
    if len(paths) > 1:
        _write_index(folder, weight_map, sum(sizes.values()))
    sync(paths)
    return paths


def append_to_folder(folder: Path, refs: Mapping[str, TensorRef]) -> None:
    """Add a shard with more tensors, unchanged, to a folder of weights that is written already.

    Raises:
        CheckpointError: the folder already holds a tensor with one of the names.
    """
    shards = shard_paths(folder)
    held = {path: _open_shard(path) for path in shards}
    for name in refs:
        if any(name in shard for shard in held.values()):
            raise CheckpointError(f"{folder} already holds tensor '{name}'; give it another name")
    total = sum(ref.num_bytes for shard in (*held.values(), refs) for ref in shard.values())
    weight_map: dict[str, str] = {}
    for place, path in enumerate(shards):
        renamed = _shard_name(place, len(shards) + 1)
        weight_map |= dict.fromkeys(held[path], renamed)
        path.rename(folder / renamed)
    added = folder / _shard_name(len(shards), len(shards) + 1)
    outline = {name: StoredTensor.of(ref) for name, ref in refs.items()}
    write_safetensors(added, outline, lambda name: refs[name].load(), METADATA, verbatim=outline)
    weight_map |= dict.fromkeys(refs, added.name)
    _write_index(folder, weight_map, total)
    sync([added])


def _write_index(folder: Path, weight_map: Mapping[str, str], total: int) -> None:
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
    sync([folder / INDEX])


def _shard_name(place: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{place + 1:05d}-of-{count:05d}.safetensors"


def sync(paths: Iterable[Path]) -> None:
    """Flush files to disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
