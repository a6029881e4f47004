"""Prove that a saved folder is unchanged: its files, its size, and its outputs.

A fresh process opens it with plain transformers (`run_folder`), and its outputs are compared with
the folder's record. Each check holds, fails, or cannot be made; the folder is proven only if all
hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...checkpoints.durable import file_hash
from ...errors import CheckpointError, ProofError
from ..blocks.announcing import Announce
from ..blocks.device import default_device
from ..reading.quantized import only_dtype
from ..writing.publishing import BENCH, PROVENANCE, REPORT, files_of
from .fresh_process import run_alone
from .record import RECORD, Record, logits_off, mean_nll, read_record

_REREAD = Path(__file__).with_name("run_folder.py")
_DECODE_TOKENS = 24
_MAX_BYTES = 64 << 20
_PROSE = (".md",)  # text files, which no output depends on
_SIGNATURES = (".minisig", ".sig", ".sigstore")  # made after the model was saved
_WRITTEN_LATER = (PROVENANCE, REPORT, BENCH)  # after the list of checksums


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: name of the check.
        holds: whether it holds; None if it cannot be made.
        words: what was found, and what was expected if the check failed.
    """

    name: str
    holds: bool | None
    words: str


@dataclass(frozen=True)
class Proof:
    """All checks of one folder.

    Attributes:
        folder: path of the folder.
        checks: the checks, in order.
        said: the prompt and the greedy continuation; shown but not checked, because the last bit of
            a logit can change it.
        environment: device and versions it was opened with; empty if it did not open.
        saved_with: device and versions it was saved with, if they are recorded.
    """

    folder: Path
    checks: tuple[Check, ...]
    said: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    saved_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether every check was made and holds."""
        return all(check.holds for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if check.holds is False)

    def as_dict(self) -> dict[str, Any]:
        """The proof in types of JSON."""
        return {
            "folder": str(self.folder),
            "proven": self.proven,
            "checks": [
                {"name": each.name, "holds": each.holds, "found": each.words}
                for each in self.checks
            ],
            "said": self.said,
            "environment": dict(self.environment),
            "saved_with": dict(self.saved_with),
        }


async def prove(
    folder: Path,
    *,
    trust_remote_code: bool = False,
    announce: Announce = lambda label, done, total: None,
) -> Proof:
    """Check a folder's files, open it in a fresh process, and compare its outputs with its record.

    Args:
        trust_remote_code: allow Python code of the folder to run.

    Raises:
        CheckpointError: there is no such folder, or it contains no model.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"'{folder}' is no folder that holds a config.json; nothing to prove")
    papers = read_papers(folder)
    announce("folder opened in a fresh process", 0, None)
    try:
        request = _request(folder, papers.record, trust_remote_code)
        found = await run_alone(_REREAD, request, announce)
    except ProofError as error:
        return papers.with_checks([Check("opens", False, str(error))])
    return papers.with_checks(
        _opened(found, papers.record),
        said=found["text"] or f"token ids {found['decoded']}",
        environment=found["environment"],
    )


@dataclass(frozen=True)
class Papers:
    """The checks of a folder's records against its files.

    Attributes:
        folder: path of the folder.
        checks: checks of the record, the files and their size.
        record: outputs of the model when it was saved; None if there is no record.
        facts: the contents of birdbone.json; empty if there is none that can be read.
    """

    folder: Path
    checks: tuple[Check, ...]
    record: Record | None
    facts: Mapping[str, Any]

    @property
    def measured_on(self) -> Mapping[str, str]:
        """Device and versions the folder was saved with."""
        then = self.facts.get("measured_on")
        return {str(k): str(v) for k, v in then.items()} if isinstance(then, Mapping) else {}

    def with_checks(
        self,
        more: Iterable[Check],
        *,
        said: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Proof:
        """The proof, with the checks of the opened model."""
        now = environment or {}
        then = {key: self.measured_on[key] for key in now if key in self.measured_on}
        checks = (*self.checks, *more)
        return Proof(self.folder, checks, said=said, environment=now, saved_with=then)


def read_papers(folder: Path) -> Papers:
    """Read a folder's records and check all its files; the model is not opened."""
    checks, kept = _provenance(folder)
    record, about_record = _record(folder)
    checks += [*_files(folder, kept), *_size(folder, kept), *about_record]
    return Papers(folder, tuple(checks), record, kept or {})


def _provenance(folder: Path) -> tuple[list[Check], Mapping[str, Any] | None]:
    """The folder's birdbone.json; None if there is none or it cannot be read."""
    path = folder / PROVENANCE
    if not path.is_file():
        words = f"no {PROVENANCE}: birdbone did not save this folder, or the file was lost"
        return [Check("record", None, words)], None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return [Check("record", False, f"{PROVENANCE} cannot be read: {error}")], None
    if not isinstance(found, dict) or "birdbone" not in found:
        return [Check("record", False, f"{PROVENANCE} holds no record of birdbone's")], None
    checks = [Check("record", True, f"saved by birdbone {found['birdbone']}")]
    if "refused" in found:
        checks.append(Check("accepted", False, f"refused when it was made: {found['refused']}"))
    return checks, found


def _record(folder: Path) -> tuple[Record | None, list[Check]]:
    try:
        record = read_record(folder)
    except CheckpointError as error:
        return None, [Check("computes as saved", False, str(error))]
    if record is not None:
        return record, []
    words = f"no {RECORD}, so there is nothing to hold what it computes against"
    return None, [Check("computes as saved", None, words)]


def _files(folder: Path, kept: Mapping[str, Any] | None) -> list[Check]:
    """Check every file against its checksum; text files may have been edited."""
    listed = None if kept is None else kept.get("files")
    if not isinstance(listed, Mapping):
        return [Check("files", None, "no checksums to hold the files against")]
    faults = [words for name, known in listed.items() if (words := _changed(folder, name, known))]
    known = {*listed, *_WRITTEN_LATER}
    faults += [
        f"{name} is there and was not saved"
        for name, path in files_of(folder).items()
        if name not in known
        and not path.name.startswith(".")
        and path.suffix not in (*_PROSE, *_SIGNATURES)
    ]
    if faults:
        return [Check("files", False, "; ".join(faults))]
    return [Check("files", True, f"{len(listed)} files, every checksum as recorded")]


def _changed(folder: Path, name: str, known: object) -> str | None:
    """The fault of one recorded file, or None."""
    path = PurePosixPath(name)
    if _leads_out(folder, path) or str(path) != name or not isinstance(known, Mapping):
        return f"{name!r} is no entry for a file of the folder"
    if path.suffix in _PROSE:
        return None
    try:
        size = (folder / name).stat().st_size
        if size != known.get("bytes"):
            return f"{name} has {size} bytes, recorded {known.get('bytes')}"
        found = file_hash(folder / name)
    except (OSError, ValueError) as error:
        return f"{name} cannot be read ({getattr(error, 'strerror', None) or error})"
    if found != known.get("sha256"):
        return f"{name} has another checksum than recorded"
    return None


def _leads_out(folder: Path, path: PurePosixPath) -> bool:
    """Whether a path leaves the folder; the file itself may be a link, as in the hub cache."""
    above = path.parents[:-1]
    plain = not path.is_absolute() and ".." not in path.parts and "\\" not in str(path)
    return not plain or any((folder / each).is_symlink() for each in above)


def _size(folder: Path, kept: Mapping[str, Any] | None) -> list[Check]:
    """Compare the bytes of the weight files with the recorded number."""
    weights = (path for kind in ("*.safetensors", "*.gguf") for path in folder.glob(kind))
    now = sum(path.stat().st_size for path in weights)
    figures: Any = {} if kept is None else kept.get("figures")
    light = figures.get("light") if isinstance(figures, Mapping) else None
    then = light.get("weight_bytes") if isinstance(light, Mapping) else None
    words = f"weights take {now:,} bytes on disk"
    if then is None:
        return [Check("size", None, f"{words}; what they took is not on record")]
    same = then == now
    return [Check("size", same, f"{words}, " + ("as recorded" if same else f"recorded {then}"))]


def _request(folder: Path, record: Record | None, trust: bool) -> dict[str, Any]:
    windows = [] if record is None else record.windows
    return {
        "folder": str(folder.resolve()),
        "dtype": _plain_dtype(folder) if record is None else record.dtype,
        "device": str(default_device()),
        "decode_tokens": _DECODE_TOKENS,
        "trust_remote_code": trust,
        "windows": [each.model_dump(include={"tokens", "places", "ids"}) for each in windows],
    }


def _plain_dtype(folder: Path) -> str:
    """The dtype to try a folder in that states none: float32, or the only one it computes in."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        only = only_dtype(folder, config) if isinstance(config, dict) else None
    except (OSError, ValueError, CheckpointError):
        return "float32"
    return "float32" if only is None else str(only).removeprefix("torch.")


def _opened(found: Mapping[str, Any], record: Record | None) -> list[Check]:
    """Checks of the fresh process's outputs against the record."""
    version = found["environment"]["transformers"]
    checks = [
        Check(
            "opens",
            True,
            f"plain transformers {version}, no code of ours: {found['architecture']}, "
            f"{len(found['decoded'])} tokens decoded, all logits finite",
        ),
    ]
    if record is None:
        return checks
    return [*checks, *_compared(found, record)]


def _compared(found: Mapping[str, Any], record: Record) -> list[Check]:
    bound = record.tolerance
    count = sum(len(row) for window in record.windows for row in window.logits)
    off = logits_off(record, found["logits"])
    return [
        Check(
            "logits",
            off <= bound,
            f"{count} logits are {off:.2g} off the recorded ones, relative root mean square; "
            f"up to {bound:.2g} is allowed",
        ),
        check_score(record, found["nll"]),
    ]


def check_score(record: Record, nll: list[list[float]]) -> Check:
    """Compare the mean NLL with the recorded one."""
    bound = record.tolerance
    then = mean_nll([window.nll for window in record.windows])
    now = mean_nll(nll)
    apart = abs(now - then) / max(then, 1e-9)
    tokens = sum(len(window.nll) for window in record.windows)
    return Check(
        "score",
        apart <= bound,
        f"mean {now:.5f} nats over {tokens} tokens ({record.text}), recorded {then:.5f}: "
        f"{apart:.2g} off, up to {bound:.2g} is allowed",
    )
