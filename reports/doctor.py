"""Is this installation sound: every check as data, and how a person reads them.

Nothing of the libraries underneath is imported before the check that is about it, so that a broken
one is a line of the report, not the end of it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

State = Literal["ok", "missing", "mend"]

_PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError)
_FREE_BYTES = 2 << 30  # below it, even a small model is a risk
_STYLES = {"ok": "green", "missing": "red", "mend": "yellow"}


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        state: ``ok``; ``missing``, not there; ``mend``, there but not as it should be.
        found: what was seen.
        mend: what to do about it; empty where all is well.
        needed: birdbone does not work without it.
    """

    name: str
    state: State
    found: str
    mend: str = ""
    needed: bool = True

    @property
    def breaks(self) -> bool:
        """Whether birdbone cannot work because of it."""
        return self.needed and self.state != "ok"

    def as_dict(self) -> dict[str, Any]:
        """The check in types JSON knows."""
        return asdict(self)


def examine() -> list[Check]:
    """Look at everything; takes some seconds, because libraries are imported to see them work."""
    return [
        _python(),
        *_versions(),
        _imported("torch", _torch_build),
        _imported("transformers", lambda module: f"imports, {module.__version__}"),
        _cuda(),
        _imported("bitsandbytes", _quantize_four_bits, needed=False),
        _imported("compressed_tensors", lambda module: "imports"),
        _memory(),
        _disk(),
        _hub_cache(),
    ]


def _python() -> Check:
    """Older ones cannot read this file, so there is nothing to compare."""
    return Check("python", "ok", ".".join(map(str, sys.version_info[:3])))


def requirements() -> list[str]:
    """What birdbone requires, as its metadata says, or in a source tree its pyproject.toml.

    Extras are left out.
    """
    try:
        listed = metadata.requires("birdbone") or []
    except metadata.PackageNotFoundError:
        listed = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [each for each in listed if "extra ==" not in each]


def _versions() -> Iterator[Check]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements()):
        name = requirement.name
        mend = f'pip install "{name}{requirement.specifier}"'
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check(name, "missing", "not installed", mend)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        yield Check(name, "ok", version) if fits else Check(name, "mend", version, mend)


def _imported(module: str, look: Callable[[Any], str], *, needed: bool = True) -> Check:
    """Whether a module imports and ``look`` sees it work."""
    name = f"{module} works"
    try:
        return Check(name, "ok", look(import_module(module)), needed=needed)
    except ModuleNotFoundError as error:
        return Check(name, "missing", _first_line(error), f"pip install {module}", needed)
    except _BROKEN as error:
        mend = f"pip install --force-reinstall {module}"
        return Check(name, "mend", _first_line(error), mend, needed)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _torch_build(torch: Any) -> str:
    total = float(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum())
    if total != 8.0:
        raise RuntimeError(f"a product of ones sums to {total}, not 8")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return f"{torch.__version__}, built for {build}, {torch.get_num_threads()} threads"


def _cuda() -> Check:
    try:
        torch = import_module("torch")
        if not torch.cuda.is_available():
            return Check("cuda", "ok", "none; the CPU is used", needed=False)
        free, total = torch.cuda.mem_get_info()
        found = f"{torch.cuda.get_device_name()}, {_gigabytes(free)} of {_gigabytes(total)} free"
        return Check("cuda", "ok", found, needed=False)
    except _BROKEN as error:
        return Check("cuda", "mend", _first_line(error), "check the driver", needed=False)


def _quantize_four_bits(bitsandbytes: Any) -> str:
    torch = import_module("torch")
    weight = torch.linspace(-1, 1, 128).reshape(2, 64)
    codes, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
    values = bitsandbytes.functional.dequantize_4bit(codes, state)
    error = float((values - weight).abs().max())
    if not error < 0.2:
        raise RuntimeError(f"4-bit values are off by {error}")
    return "4-bit codes on the CPU read back"


def _memory() -> Check:
    try:
        free = int(import_module("psutil").virtual_memory().available)
    except _BROKEN as error:
        return Check("memory", "mend", _first_line(error), "pip install psutil", needed=False)
    return _room("memory", free, "end what else holds memory")


def _disk() -> Check:
    return _room("disk", shutil.disk_usage(Path.cwd()).free, "free some, or work on another disk")


def _room(name: str, free: int, mend: str) -> Check:
    found = f"{_gigabytes(free)} free"
    if free >= _FREE_BYTES:
        return Check(name, "ok", found, needed=False)
    return Check(name, "mend", found, mend, needed=False)


def _hub_cache() -> Check:
    """Whether models can be downloaded to where the hub's library keeps them."""
    name = "hub cache"
    try:
        folder = Path(import_module("huggingface_hub.constants").HF_HUB_CACHE)
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryFile(dir=existing):
            return Check(name, "ok", f"{folder}, writable", needed=False)
    except _BROKEN as error:
        mend = "set HF_HOME to a folder that can be written"
        return Check(name, "mend", _first_line(error), mend, needed=False)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def doctor_report(checks: Iterable[Check]) -> RenderableType:
    """A line for each check, with the mend beside what is not well."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        found = f"{check.found}; {check.mend}" if check.mend else check.found
        state = Text(check.state, style=_STYLES[check.state])
        table.add_row(state, Text(check.name), Text(found, overflow="fold"))
    return table
