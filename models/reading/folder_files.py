"""Which files of a model's folder are carried with the model, and which are left out.

Every file is carried unless it holds or describes weights: tokenizers, processors, chat templates,
licences, notices, whatever a later library may look for. What is left out is listed with its size.
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
"""Weights and data in formats that are not read, by file name."""

COPIES = ("onnx", "openvino", "original", "coreml", "tflite", "gguf", "metal", "checkpoint-*")
"""Folders in which repositories keep other copies of the weights and what describes those."""

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
"""The largest file, or folder of files, that is carried; tokenizers reach 35 MB."""

_TOO_LARGE = f"larger than {MAX_FILE_BYTES >> 20} MiB"


@dataclass(frozen=True)
class FolderFiles:
    """What a folder holds beside the weights that are read.

    Attributes:
        carried: content by name.
        left_out: the rest.
    """

    carried: dict[str, bytes] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()


def folder_files(folder: Path, *, code: bool, read: Collection[str] = ()) -> FolderFiles:
    """Sort the files of a folder into what is carried and what is left out.

    Args:
        code: carry Python files too.
        read: names of the weight files whose tensors are read; they are in neither list.
    """
    paths, left_out = sorted_files(folder, code=code, read=read)
    return FolderFiles({name: path.read_bytes() for name, path in paths.items()}, left_out)


def sorted_files(
    folder: Path, *, code: bool, read: Collection[str] = ()
) -> tuple[dict[str, Path], tuple[LeftOut, ...]]:
    """The same, with the files that are carried unread: where each is, by the name it will have."""
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
    """The licences and notices of a folder, which go wherever its model goes."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if is_licence(path.name) and not _reason_against(path, folder, code=False)
    }


def code_files(folder: Path) -> dict[str, bytes]:
    """The Python files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def is_licence(name: str) -> bool:
    """Whether a carried file is a licence or a notice, by its name."""
    return _matches(name.rpartition("/")[2], _LICENCES)


def is_of_tokenizer(name: str) -> bool:
    """Whether a carried file belongs to a tokenizer or its chat templates, by its name."""
    return _matches(name.rpartition("/")[2], _TOKENIZER) or name.startswith(_TEMPLATES)


def dangling(folder: Path) -> list[str]:
    """Names of files that would be read, but are links to something that is not there."""
    return [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_symlink()
        and not path.exists()
        and not _matches(path.name, (*OTHER_WEIGHTS, ".*"))
    ]


def _of_subfolder(folder: Path, *, code: bool) -> tuple[dict[str, Path], list[LeftOut]]:
    """A folder that holds weights is left out but for its licences; one without is carried."""
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
    """Why a file is not carried; nothing where it is."""
    name = path.name
    if not path.is_file():
        return "a link to a file that is not there, or no file"
    if name.startswith("."):
        return "hidden"
    if _printable(name) != name or "\\" in name:
        return "a name that not every system can hold"
    if _leads_out(path, folder) and not _matches(name, (*_KNOWN, *_LICENCES)):
        return "a link that leads out of the folder"
    if _matches(name, _WEIGHTS):
        return "weights in a file that is not read"
    if _matches(name, _DESCRIBE_WEIGHTS):
        return "describes weights as they are stored in the source"
    if path.stat().st_size > MAX_FILE_BYTES:
        return _TOO_LARGE
    if path.suffix == ".py" and not code:
        return "Python code, which is carried only with trust_remote_code"
    return ""


def _printable(name: str) -> str:
    """A name as it is, or in ASCII where it holds what cannot be written as text."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _leads_out(path: Path, folder: Path) -> bool:
    """Whether a file is a link to elsewhere; the hub's cache, which is made of links, is not."""
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
