"""``birdbone doctor``: checks of the installation, as data and as a report.

Each library is imported only by the check that is about it, so that a broken one is reported as one
line and does not end the report.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

Status = Literal["ok", "missing", "wrong"]

_DEVICES = f"{__name__.rsplit('.', 2)[0]}.checkpoints.devices"
_PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError)
_FREE_BYTES = 2_000_000_000  # with less, even a small model may not fit
_STYLES = {"ok": "green", "missing": "red", "wrong": "yellow"}
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_NOT_FOR_USERS = ("all", "dev", "docs")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        state: ``ok``; ``missing``: not installed; ``wrong``: there, but with a fault.
        found: what was found.
        fix: what to do about it; empty if nothing has to be done.
        needed: birdbone does not work without it.
    """

    name: str
    state: Status
    found: str
    fix: str = ""
    needed: bool = True

    @property
    def breaks(self) -> bool:
        """Whether birdbone cannot work because of it."""
        return self.needed and self.state != "ok"

    def as_dict(self) -> dict[str, Any]:
        """The check as types that JSON can represent."""
        return asdict(self)


def examine() -> list[Finding]:
    """Run every check. Takes some seconds, because libraries are imported and tried."""
    return [
        _python(),
        *_versions(),
        *_extras(),
        _imported("torch", _torch_build),
        _imported("transformers", lambda module: f"imports, {module.__version__}"),
        *_devices(),
        *_bitsandbytes(),
        _imported("compressed_tensors", lambda module: "imports"),
        _memory(),
        _disk(),
        _hub_cache(),
    ]


def _python() -> Finding:
    """The version of Python; one that is too old cannot run this file."""
    return Finding("python", "ok", ".".join(map(str, sys.version_info[:3])))


def requirements() -> list[str]:
    """The required distributions, from the metadata or, in a source tree, from pyproject.toml.

    Those of extras are left out.
    """
    try:
        listed = metadata.requires("birdbone") or []
    except metadata.PackageNotFoundError:
        listed = _project()["dependencies"]
    return [each for each in listed if _EXTRA.search(each) is None]


def extras() -> dict[str, list[str]]:
    """Extra to the distributions it adds, from the same place; tools for developers left out."""
    try:
        listed = metadata.requires("birdbone") or []
    except metadata.PackageNotFoundError:
        found: dict[str, list[str]] = dict(_project()["optional-dependencies"])
    else:
        found = {}
        for each in listed:
            if (match := _EXTRA.search(each)) is not None:
                found.setdefault(match[1], []).append(each.partition(";")[0].strip())
    return {name: each for name, each in found.items() if name not in _NOT_FOR_USERS}


def _project() -> Mapping[str, Any]:
    project: Mapping[str, Any] = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
    return project


def _versions() -> Iterator[Finding]:
    for requirement in requirements():
        yield _version(requirement)


def _extras() -> Iterator[Finding]:
    """A check for each distribution of each extra; none of them is needed."""
    for extra, listed in extras().items():
        for requirement in listed:
            yield _version(requirement, extra=extra)


def _version(text: str, *, extra: str | None = None) -> Finding:
    """Whether a required distribution is installed in a version that fits."""
    from packaging.requirements import Requirement

    requirement, needed = Requirement(text), extra is None
    name = requirement.name if extra is None else f"{requirement.name} [{extra}]"
    fix = f'pip install "{requirement.name}{requirement.specifier}"'
    if extra is not None:
        fix = f"pip install 'birdbone[{extra}]'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", fix, needed)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "ok", version, needed=needed)
    return Finding(name, "wrong", f"{version}, not {requirement.specifier}", fix, needed)


def _imported(module: str, look: Callable[[Any], str], *, needed: bool = True) -> Finding:
    """Whether a module imports and ``look`` finds that it works."""
    name = f"{module} works"
    try:
        return Finding(name, "ok", look(import_module(module)), needed=needed)
    except ModuleNotFoundError as error:
        return Finding(name, "missing", _first_line(error), f"pip install {module}", needed)
    except _BROKEN as error:
        fix = f"pip install --force-reinstall {module}"
        return Finding(name, "wrong", _first_line(error), fix, needed)


def _bitsandbytes() -> Iterator[Finding]:
    """Whether bitsandbytes works, if it is installed; it logs a line about kernels it can spare."""
    try:
        metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        return
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield _imported("bitsandbytes", _quantize_four_bits, needed=False)
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _torch_build(torch: Any) -> str:
    total = float(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum())
    if total != 8.0:
        raise RuntimeError(f"a product of ones sums to {total}, not 8")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return f"{torch.__version__}, built for {build}, {torch.get_num_threads()} threads"


def _devices() -> Iterator[Finding]:
    """Every device that ``--device`` accepts."""
    try:
        torch, devices = import_module("torch"), import_module(_DEVICES)
        names = devices.device_names()
        yield Finding("cpu", "ok", f"{torch.get_num_threads()} threads", needed=False)
        for name in names[1:]:
            device = torch.device(name)
            found = devices.describe_device(device)
            if devices.counts_bytes(device):
                free, total = devices.free_and_total_bytes(device)
                found += f", {_gigabytes(free)} of {_gigabytes(total)} free"
            yield Finding(name, "ok", found, needed=False)
        if len(names) == 1:
            yield Finding("accelerator", "ok", "none; the CPU is used", needed=False)
    except _BROKEN as error:
        yield Finding("accelerator", "wrong", _first_line(error), "check the driver", needed=False)


def _quantize_four_bits(bitsandbytes: Any) -> str:
    torch = import_module("torch")
    weight = torch.linspace(-1, 1, 128).reshape(2, 64)
    codes, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
    values = bitsandbytes.functional.dequantize_4bit(codes, state)
    error = float((values - weight).abs().max())
    if not error < 0.2:
        raise RuntimeError(f"4-bit values are off by {error}")
    return "4-bit weights on the CPU are read back"


def _memory() -> Finding:
    try:
        free = int(import_module("psutil").virtual_memory().available)
    except _BROKEN as error:
        return Finding("memory", "wrong", _first_line(error), "pip install psutil", needed=False)
    return _room("memory", free, "close other programs")


def _disk() -> Finding:
    return _room("disk", shutil.disk_usage(Path.cwd()).free, "free some space, or use another disk")


def _room(name: str, free: int, fix: str) -> Finding:
    found = f"{_gigabytes(free)} free"
    if free >= _FREE_BYTES:
        return Finding(name, "ok", found, needed=False)
    return Finding(name, "wrong", found, fix, needed=False)


def _hub_cache() -> Finding:
    """Whether models can be downloaded into the cache of the Hugging Face hub."""
    name = "hub cache"
    try:
        folder = Path(import_module("huggingface_hub.constants").HF_HUB_CACHE)
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryFile(dir=existing):
            return Finding(name, "ok", f"{folder}, writable", needed=False)
    except _BROKEN as error:
        fix = "set HF_HOME to a writable folder"
        return Finding(name, "wrong", _first_line(error), fix, needed=False)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def doctor_report(checks: Iterable[Finding]) -> RenderableType:
    """A line for each check, with the fix where there is a fault."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        found = f"{check.found}; {check.fix}" if check.fix else check.found
        state = Text(check.state, style=_STYLES[check.state])
        table.add_row(state, Text(check.name), Text(found, overflow="fold"))
    return table
