"""A folder with a GGUF file is proven by llama.cpp, or what speaks against it is named."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_windows
from tiny_gguf import gguf_checkpoint
from typer.testing import CliRunner, Result

from birdbone.cli import app
from birdbone.engine import run
from birdbone.errors import MissingExtraError, ProofError
from birdbone.formats import gguf_proof
from birdbone.formats.gguf_proof import prove_gguf
from birdbone.links import save
from birdbone.models.evaluation.proof import Check, Proof
from birdbone.models.evaluation.record import read_record


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As save leaves it, in a folder that is not to be spoilt."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    path = tmp_path_factory.mktemp("gguf") / "light"
    checkpoint = gguf_checkpoint("llama")
    vocabulary = int(checkpoint.config["vocab_size"])
    ctx = {
        "checkpoint": checkpoint,
        "dense": checkpoint,
        "heldout": tiny_windows(3, vocab=vocabulary),
    }
    asyncio.run(run(save(path=str(path), format="gguf", kind="q8_0", compare=False), ctx))
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "light"))


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What llama.cpp is to have said; it is run in one test alone."""
    said: dict[str, Any] = {"environment": {"llama.cpp": "xllamacpp 1", "python": "3"}}

    async def stand_in(*_: object, **__: object) -> dict[str, Any]:
        if "error" in said:
            raise ProofError(said["error"])
        return said

    monkeypatch.setattr(gguf_proof, "run_llama_cpp", stand_in)
    return said


def recorded(folder: Path) -> list[list[float]]:
    record = read_record(folder)
    assert record is not None
    return [list(window.nll) for window in record.windows]


def found(proof: Proof, name: str) -> Check:
    (check,) = [each for each in proof.checks if each.name == name]
    return check


def prove(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["prove", str(folder), *options])


def test_a_folder_just_saved_is_proven_in_llama_cpp(folder: Path) -> None:
    done = prove(folder, "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 0, document
    assert document["proven"]
    names = [check["name"] for check in document["checks"]]
    assert names == ["record", "files", "size", "opens", "score"]
    assert document["saved_with"] == document["environment"]


async def test_another_score_is_no_proof(folder: Path, no_process: dict[str, Any]) -> None:
    no_process["nll"] = [[value * 1.02 for value in row] for row in recorded(folder)]
    proof = await prove_gguf(folder)
    assert [each.name for each in proof.failed] == ["score"]
    assert "0.02 off, up to 0.01 is allowed" in found(proof, "score").words
    no_process["nll"] = recorded(folder)
    assert (await prove_gguf(folder)).proven


async def test_a_file_that_changed_is_named(folder: Path, no_process: dict[str, Any]) -> None:
    no_process["nll"] = recorded(folder)
    path = folder / "model.gguf"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    proof = await prove_gguf(folder)
    assert found(proof, "files").words == "model.gguf has another checksum than recorded"
    path.write_bytes(bytes(content) + b"more")
    assert not found(await prove_gguf(folder), "size").holds


async def test_what_llama_cpp_cannot_open_is_not_proven(
    folder: Path, no_process: dict[str, Any]
) -> None:
    no_process["error"] = "llama.cpp cannot open and run the saved model: no"
    assert found(await prove_gguf(folder), "opens").holds is False


async def test_a_header_that_is_none_is_not_proven(
    folder: Path, no_process: dict[str, Any]
) -> None:
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    proof = await prove_gguf(folder)
    assert {each.name for each in proof.failed} == {"files", "size", "opens"}


def test_without_llama_cpp_the_extra_is_named_and_files_are_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("not installed; run pip install 'birdbone[llama]'")

    monkeypatch.setattr(gguf_proof, "require_llama_cpp", missing)
    done = prove(folder)
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    assert "unknown opens not installed; run pip install 'birdbone[llama]'" in said
    assert "ok files 3 files, every checksum as recorded" in said
    assert "no check failed for 'light', but these could not be made: opens" in said


async def test_without_a_record_the_score_cannot_be_known(
    folder: Path, no_process: dict[str, Any]
) -> None:
    (folder / "proof.json").unlink()
    proof = await prove_gguf(folder)
    assert found(proof, "computes as saved").holds is None
    assert found(proof, "opens").holds
    assert not proof.proven
