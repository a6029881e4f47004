"""Sort the files of a model folder into those copied with the model and those left out.

Every file is copied unless it contains or describes weights: tokenizers, processors, chat
templates, licences and files unknown to this package. Files left out are listed with their size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ...checkpoints import LeftOut

OTHER_WEIGHTS = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.pickle",
    "*.gguf",
    "*.ggml",
    "*.h5",
    "*.hdf5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data*",
    "*.onnx.data*",
    "*.tflite",
    "*.npz",
    "*.npy",
    "*.ot",
    "*.nemo",
    "*.mlmodel",
    "*.mlpackage",
    "*.llamafile",
    "*.task",
    "*.litertlm",
    "*.engine",
    "*.pte",
    "*.tar",
    "*.tar.*",
    "*.tgz",
    "*.zip",
    "*.7z",
    "*.zst",
    "*.parquet",
    "*.arrow",
    "*.tfevents*",
    "consolidated*",
    "openvino_*",
)
"""Weights and data in unsupported formats, by file name."""

COPIES = ("onnx", "openvino", "original", "coreml", "tflite", "gguf", "metal", "checkpoint-*")
"""Folders in which repositories keep other copies of the weights and their descriptions."""

_WEIGHTS = ("*.safetensors", *OTHER_WEIGHTS)
_DESCRIBE_WEIGHTS = (
    "*.index.json",
    "adapter_config.json",
    "hf_quant_config.json",
    "params.json",
    "quant_config.json",
    "quant_model_description*.json",
    "quantization_config.json",
    "quantize_config.json",
    "recipe.yaml",
    "trainer_state.json",
    "*.md5",
    "*.sha256",
    "*checksum*",
    "*sha256sum*",
)
_LICENCES = (
    "*licen[cs]e*",
    "*notice*",
    "copying*",
    "copyright*",
    "patents*",
    "authors*",
    "*use_policy*",
    "*use-policy*",
    "*terms_of_use*",
)
_TOKENIZER = ("*token*", "*vocab*", "merges.txt", "*chat_template*", "*.model", "*.tiktoken")
_TEMPLATES = "additional_chat_templates/"
_KNOWN = (*_TOKENIZER, "*processor*", "*generation_config.json")
_WRITTEN_ANEW = ("config.json", "model.safetensors.index.json", "birdbone.json", "proof.json")
_CARD, CARRIED_CARD = "README.md", "SOURCE_README.md"

MAX_FILE_BYTES = 64 << 20
"""Maximum size of a copied file or folder; tokenizers reach 35 MB."""

_POINTER, _LONGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024

_TOO_LARGE = f"larger than {MAX_FILE_BYTES >> 20} MiB"


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder other than the weight files that are read.

    Attributes:
        carried: contents of the files that are copied with the model, by name.
        left_out: the other files.
    """

    carried: dict[str, bytes] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()


def folder_files(folder: Path, *, code: bool, read: Collection[str] = ()) -> FolderFiles:
    """Sort the files of a folder into those copied with the model and those left out.

    Args:
        code: copy Python files too.
        read: names of the weight files that are read; they are in neither list.
    """
    paths, left_out = sorted_files(folder, code=code, read=read)
    return FolderFiles({name: path.read_bytes() for name, path in paths.items()}, left_out)


def sorted_files(
    folder: Path, *, code: bool, read: Collection[str] = ()
) -> tuple[dict[str, Path], tuple[LeftOut, ...]]:
    """The same without reading: the path of each copied file by its name in the result."""
    ours = (folder / "birdbone.json").is_file()
    carried: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    for path in sorted(folder.iterdir()):
        if path.name in read or path.name in _WRITTEN_ANEW or (ours and path.name == _CARD):
            continue
        if path.is_dir():
            inside, without = _of_subfolder(path, code=code)
            carried.update(inside)
            left_out += without
        elif why := _reason_against(path, folder, code=code):
            left_out.append(LeftOut(_printable(path.name), _size(path), why))
        else:
            carried[CARRIED_CARD if path.name == _CARD else path.name] = path
    return carried, tuple(left_out)


def licence_files(folder: Path) -> dict[str, bytes]:
    """The licences and notices of a folder, which are copied with every result."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if is_licence(path.name) and not _reason_against(path, folder, code=False)
    }


def code_files(folder: Path) -> dict[str, bytes]:
    """The Python files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def is_licence(name: str) -> bool:
    """Whether a file is a licence or a notice, by its name."""
    return _matches(name.rpartition("/")[2], _LICENCES)


def is_of_tokenizer(name: str) -> bool:
    """Whether a file belongs to a tokenizer or its chat templates, by its name."""
    return _matches(name.rpartition("/")[2], _TOKENIZER) or name.startswith(_TEMPLATES)


def dangling(folder: Path) -> list[str]:
    """Names of files to read that are broken links."""
    return [path.name for path in _to_read(folder) if path.is_symlink() and not path.exists()]


def lfs_pointers(folder: Path) -> list[str]:
    """Names of files to read of which Git LFS has stored only the address."""
    return [path.name for path in _to_read(folder) if is_lfs_pointer(path)]


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file holds its address in Git LFS instead of its content."""
    if not path.is_file() or path.stat().st_size > _LONGEST_POINTER:
        return False
    return path.read_bytes().startswith(_POINTER)


def _to_read(folder: Path) -> list[Path]:
    """The files of a folder without hidden ones and weights in formats that are not read."""
    others = (*OTHER_WEIGHTS, ".*")
    return [path for path in sorted(folder.iterdir()) if not _matches(path.name, others)]


def _of_subfolder(folder: Path, *, code: bool) -> tuple[dict[str, Path], list[LeftOut]]:
    """Leave out a sub-folder with weights, except its licences; copy one without weights."""
    label, root = f"{_printable(folder.name)}/", folder.parent
    paths = {path.relative_to(root).as_posix(): path for path in _inside(folder)}
    if folder.name.startswith((".", "__")) or folder.is_symlink():
        return {}, [LeftOut(label, _total(paths.values()), "hidden, or a link")]
    reasons = {name: _reason_against(path, root, code=code) for name, path in paths.items()}
    carried = {name: path for name, path in paths.items() if not reasons[name]}
    why = ""
    if _matches(folder.name, COPIES) or any(_matches(p.name, _WEIGHTS) for p in paths.values()):
        why = "weights in a folder that is not read"
    elif _total(carried.values()) > MAX_FILE_BYTES:
        why = _TOO_LARGE
    if why:
        carried = {name: path for name, path in carried.items() if is_licence(name)}
        others = [path for name, path in paths.items() if name not in carried]
        return carried, [LeftOut(label, _total(others), why)]
    left_out = [
        LeftOut(_printable(name), _size(paths[name]), why) for name, why in reasons.items() if why
    ]
    return carried, left_out


def _reason_against(path: Path, folder: Path, *, code: bool) -> str:
    """Why a file is left out; empty if it is copied."""
    name = path.name
    if not path.is_file():
        return "a broken link, or not a regular file"
    if name.startswith("."):
        return "hidden"
    if _printable(name) != name or "\\" in name:
        return "a name that some systems cannot store"
    if _leads_out(path, folder) and not _matches(name, (*_KNOWN, *_LICENCES)):
        return "a link out of the folder"
    if _matches(name, _WEIGHTS):
        return "weights in a file that is not read"
    if _matches(name, _DESCRIBE_WEIGHTS):
        return "describes weights as stored in the source"
    if path.stat().st_size > MAX_FILE_BYTES:
        return _TOO_LARGE
    if path.suffix == ".py" and not code:
        return "Python code, which is copied only with trust_remote_code"
    return ""


def _printable(name: str) -> str:
    """The name, with bytes that are not valid text escaped."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _leads_out(path: Path, folder: Path) -> bool:
    """Whether a file is a link out of the folder. Links of the hub's cache do not count."""
    if not path.is_symlink():
        return False
    target, root = path.resolve(), folder.resolve()
    blobs = root.parent.parent / "blobs"
    return not (target.is_relative_to(root) or target.is_relative_to(blobs))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    lowered = name.lower()
    return any(fnmatch(lowered, pattern) for pattern in patterns)


def _inside(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def _total(paths: Iterable[Path]) -> int:
    return sum(_size(path) for path in paths)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
