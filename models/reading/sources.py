"""Resolve the name of a model to a folder or a file on this machine.

A name is a hub id, a local folder (also one with a single GGUF model), a ``.gguf`` file, or
``package:NAME/FILE.gguf``, a file inside an installed package, located without importing it.
A GGUF model in several files can be named by any of them.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoints.gguf_package import require_gguf
from ...checkpoints.shards import INDEX, SINGLE
from ...checkpoints.user_paths import user_path
from ...errors import ModelError, did_you_mean, first_names
from ..blocks.transformers_errors import reason
from ..codecs.gguf_parts import is_split, parts_of
from .folder_files import COPIES, OTHER_WEIGHTS, dangling, is_lfs_pointer, lfs_pointers

ADAPTER_CONFIG = "adapter_config.json"
"""The config file of a PEFT adapter; a folder with this file is an adapter."""

WEIGHTS_KEY = "transformers_weights"
"""The key of a config that names an unusual weight file."""

_HUB_DESCRIPTION = ["config.json", "adapter_config.json", "*.py"]


# Other formats and copies of the same weights, which are not downloaded.
_HUB_COPIES = [*OTHER_WEIGHTS, "*/*.safetensors", *(f"{folder}/*" for folder in COPIES)]


@dataclass(frozen=True)
class Source:
    """The location of a model on disk.

    Attributes:
        label: its name in cards and logs; never a path of this machine.
        folder: the absolute path of its folder.
        gguf: the name of the GGUF file in that folder, the first if there are several; None for a
            Hugging Face folder.
        parts: the names of all GGUF files, in order, if there are several.
        has_weights: whether its weight files are present; False if only the config and tokenizer
            were downloaded.
    """

    label: str
    folder: Path
    gguf: str | None = None
    parts: tuple[str, ...] = ()
    has_weights: bool = True

    @property
    def gguf_paths(self) -> tuple[Path, ...]:
        """All GGUF files of the model, in order."""
        names = self.parts or (() if self.gguf is None else (self.gguf,))
        return tuple(self.folder / name for name in names)


def find_model(name: str, *, revision: str | None = None, weights: bool = True) -> Source:
    """Resolve ``name``; a hub id is downloaded to the cache of huggingface_hub.

    Args:
        revision: branch, tag or commit on the hub.
        weights: whether weights are needed. If not, those of a hub id are not downloaded, and the
            path of a ``config.json`` is a model too.

    Raises:
        ModelError: nothing is found, or it is not a model.
    """
    if name.startswith("package:"):
        return _in_package(name)
    path = user_path(name)
    if path.name == "config.json" and path.is_file():
        return _config_alone(path, weights=weights)
    if path.is_file():
        return _gguf(path, path.name)
    if path.is_dir():
        return _folder(path, path.resolve().name)
    if path.is_symlink():
        raise ModelError(_is_dangling(name, "is a link"))
    if _looks_local(name):
        raise ModelError(
            f"model '{name}' not found: there is no such file or folder; "
            f"models on the hub are named owner/name"
        )
    return _from_hub(name, revision, weights=weights)


def read_config(source: Source) -> dict[str, Any]:
    """The ``config.json`` of a folder.

    Raises:
        ModelError: it cannot be read, or has no ``model_type``.
    """
    try:
        config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"config.json of '{source.label}' cannot be read: {reason(error)}"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"config.json of '{source.label}' has no model_type, so it is not a model")
    return config


def _config_alone(path: Path, *, weights: bool) -> Source:
    if weights:
        raise ModelError(
            f"'{path}' is a config without weights, which --dry-run alone can use; give the folder "
            f"of the model"
        )
    return Source(path.resolve().parent.name, path.parent.absolute(), has_weights=False)


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") != 1


def _gguf(path: Path, label: str) -> Source:
    if path.suffix != ".gguf":
        raise ModelError(f"'{path.name}' is not a .gguf file; give a folder or a .gguf file")
    if path.is_symlink() and not path.exists():
        raise ModelError(_is_dangling(path.name, "is a link"))
    if is_lfs_pointer(path):
        raise ModelError(_is_pointer(f"'{path.name}' is"))
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(
            f"'{path.name}' is not a GGUF file: its first bytes differ; fetch it again"
        )
    require_gguf()
    folder, names = path.parent.absolute(), parts_of(path.name)
    if len(names) == 1 or not is_split(path):
        return Source(label, folder, path.name)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"'{path.name}' is one of {len(names)} files of a GGUF model, of which {len(missing)} "
            f"are missing in its folder ({first_names(missing)}); fetch them too"
        )
    whole = names[0] if label == path.name else label
    return Source(whole, folder, names[0], tuple(names))


def _folder(path: Path, label: str, *, weights: bool = True) -> Source:
    _refuse_incomplete(path, label)
    has_weights = _has_weights(path)
    has_config = (path / "config.json").is_file()
    whole = has_config and (has_weights or not weights)
    if (path / ADAPTER_CONFIG).is_file() and not whole:
        raise ModelError(_is_an_adapter(path, label))
    if not has_config:
        ggufs = sorted(found.name for found in path.glob("*.gguf"))
        models = sorted({parts_of(name)[0]: name for name in ggufs}.values())
        if len(models) == 1:
            return _gguf(path / models[0], label)
        if models:
            raise ModelError(
                f"folder '{path}' holds {len(models)} GGUF models; give one of their files: "
                f"{first_names(models)}"
            )
        raise ModelError(f"folder '{path}' has no config.json, so it is not a model")
    return Source(label, path.absolute(), has_weights=has_weights or weights)


def _has_weights(path: Path) -> bool:
    return any((path / name).is_file() for name in (SINGLE, INDEX))


def _refuse_incomplete(path: Path, label: str) -> None:
    """Refuse broken links, as in a copy of a cache without its blobs, and addresses in Git LFS."""
    if gone := dangling(path):
        links = _first_of(gone, "is a link", "are links")
        raise ModelError(_is_dangling(label, f"is incomplete: {links}"))
    if pointers := lfs_pointers(path):
        held = _first_of(pointers, "is", "are")
        raise ModelError(_is_pointer(f"'{label}' is incomplete: {held}"))


def _first_of(names: list[str], one: str, many: str) -> str:
    """The first of several files and how many more, with the words that go with their number."""
    if len(names) == 1:
        return f"{names[0]} {one}"
    return f"{names[0]} and {len(names) - 1} other files {many}"


def _is_dangling(label: str, what: str) -> str:
    return (
        f"'{label}' {what} to files that do not exist, as in a download cache that was cleaned; "
        f"download the model again"
    )


def _is_pointer(what: str) -> str:
    return (
        f"{what} only the address of a file that Git LFS keeps elsewhere; run git lfs pull in its "
        f"folder, or download the model again"
    )


def _is_an_adapter(path: Path, label: str) -> str:
    try:
        named = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = f"'{named['base_model_name_or_path']}'"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        base = "a base model it does not name"
    return (
        f"'{label}' is an adapter of {base} ({ADAPTER_CONFIG}), not a whole model; merge it with "
        f"PEFT first: AutoPeftModelForCausalLM.from_pretrained('{label}').merge_and_unload()"
        f".save_pretrained('merged'), then give the merged folder"
    )


def _in_package(name: str) -> Source:
    package, _, file = name.removeprefix("package:").partition("/")
    if not package.isidentifier() or not file or ".." in Path(file).parts:
        raise ModelError(f"'{name}' is not of the form package:NAME/FILE.gguf")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"package '{package}' is not installed; pip install it without dependencies"
        )
    folder = Path(spec.submodule_search_locations[0])
    if not (folder / file).is_file():
        held = [path.name for path in folder.glob("*.gguf")]
        raise ModelError(f"package '{package}' holds no '{file}'; {did_you_mean(file, held)}")
    return _gguf(folder / file, f"{package}/{file}")


def _from_hub(name: str, revision: str | None, *, weights: bool) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=None if weights else _HUB_DESCRIPTION,
            ignore_patterns=_HUB_COPIES,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        # The later lines of the message are about settings of huggingface_hub.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"model '{name}' is not a local folder and cannot be downloaded from the hub: {reason}"
        ) from error
    return _folder(Path(found), name, weights=weights)
