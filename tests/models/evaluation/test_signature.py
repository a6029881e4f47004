"""Signatures of a saved model's record; minisign itself where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from birdbone.models.evaluation.proof import Check, Proof
from birdbone.models.evaluation.signature import check_signature
from birdbone.models.evaluation.verification import is_verified

installed = pytest.mark.skipif(shutil.which("minisign") is None, reason="needs minisign")


def program(folder: Path, text: str, code: int) -> None:
    """A stand-in of minisign that says a text and ends with a code."""
    folder.mkdir(exist_ok=True)
    path = folder / "minisign"
    path.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
    path.chmod(0o755)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A folder with a record, something that passes for its signature, and a key."""
    for name in ("birdbone.json", "birdbone.json.minisig", "key.pub"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_what_the_program_says_decides(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(signed / "bin"))
    program(signed / "bin", "Signature verification failed", 1)
    failed = check_signature(signed, signed / "key.pub")
    assert failed == Check("signature", False, "minisign: Signature verification failed")
    program(signed / "bin", "fine", 0)
    assert check_signature(signed, signed / "key.pub").holds


def test_what_is_missing_is_named(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = check_signature(signed, signed / "other.pub")
    assert (absent.holds, "no public key" in absent.words) == (None, True)
    monkeypatch.setenv("PATH", str(signed / "bin"))
    unknown = check_signature(signed, signed / "key.pub")
    assert (unknown.holds, "minisign is not installed" in unknown.words) == (None, True)
    (signed / "birdbone.json.minisig").unlink()
    unsigned = check_signature(signed, signed / "key.pub")
    assert (unsigned.holds, "the record is not signed" in unsigned.words) == (False, True)


@pytest.mark.parametrize("holds", [None, False])
def test_an_asked_signature_that_was_not_checked_is_no_verification(holds: bool | None) -> None:
    record = Check("record", True, "")
    assert is_verified(Proof(Path(), (record, Check("source", None, ""))))
    assert is_verified(Proof(Path(), (record, Check("signature", True, ""))))
    assert not is_verified(Proof(Path(), (record, Check("signature", holds, ""))))


@installed
def test_minisign_itself_finds_a_changed_record(tmp_path: Path) -> None:
    def minisign(*words: str) -> None:
        subprocess.run(["minisign", *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "birdbone.json").write_text("{}")
    minisign("-G", "-W", "-p", "key.pub", "-s", "key.sec")
    minisign("-S", "-s", "key.sec", "-m", "birdbone.json")
    assert check_signature(tmp_path, tmp_path / "key.pub").holds
    (tmp_path / "birdbone.json").write_text("{ }")
    assert check_signature(tmp_path, tmp_path / "key.pub").holds is False
