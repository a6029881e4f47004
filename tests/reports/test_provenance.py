"""The record of a saved model: complete, plain, without paths, and compared with what stands."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint

from birdbone import __version__
from birdbone.checkpoints import Checkpoint, InMemory
from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.models.writing.publishing import PROVENANCE, RECORDS_SUFFIX
from birdbone.reports.provenance import library_version, provenance, stands, without_paths

CHECKPOINT = tiny_checkpoint(num_hidden_layers=1)
HISTORY = (
    Step("load", {"model": "/home/me/models/tiny"}, Cost(1.5, 9, "process")),
    Step("prune", {"sparsity": 0.5}, Cost(2.0, 9, "process"), {"zeros": 3}, "id"),
)
STEPS = [("load", {"model": "tiny"}), ("prune", {"sparsity": 0.5})]


def record(files: dict[str, Path], checkpoint: Checkpoint = CHECKPOINT, **more: Any) -> Any:
    values: dict[str, Any] = {
        "checkpoint": checkpoint,
        "dense": tiny_checkpoint(num_hidden_layers=1, seed=1),
        "history": HISTORY,
        "texts": {"heldout": {"text": "/home/me/text.txt", "windows": 4, "length": 16}},
        "figures": {"light": {"perplexity": 20.0}},
        "measured_on": {"device": "cpu"},
        "files": files,
    }
    return provenance(**{**values, **more})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder of one file, with its record."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = record({"model.safetensors": tmp_path / "model.safetensors"})
    (tmp_path / PROVENANCE).write_text(json.dumps(found))
    return tmp_path


def test_the_record_is_complete_and_plain(saved: Path) -> None:
    found = record({"model.safetensors": saved / "model.safetensors"})
    assert json.loads(json.dumps(found)) == found
    assert found["birdbone"] == __version__
    assert (found["source"], found["checkpoint"]) == (CHECKPOINT.source, CHECKPOINT.id)
    assert found["dense"] == tiny_checkpoint(num_hidden_layers=1, seed=1).id
    assert [(step["link"], step["settings"]) for step in found["steps"]] == STEPS
    assert found["texts"] == {"heldout": {"text": "text.txt", "windows": 4, "length": 16}}
    assert found["figures"] == {"light": {"perplexity": 20.0}}
    assert found["files"] == {
        "model.safetensors": {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    }
    assert found["versions"]["torch"] == torch.__version__
    assert len(found["layers"]) > 7
    assert "refused" not in found


def test_a_refusal_is_recorded() -> None:
    assert record({}, refused="the rise is 30 %")["refused"] == "the rise is 30 %"


def test_the_chain_of_hashes_follows_steps_and_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = record({"a": tmp_path / "a"})["chain"]
    assert record({"a": tmp_path / "a"})["chain"] == first
    assert record({"a": tmp_path / "a"}, history=HISTORY[:1])["chain"] != first
    (tmp_path / "a").write_bytes(b"2")
    assert record({"a": tmp_path / "a"})["chain"] != first


def test_what_a_gguf_file_has_no_place_for_is_left_out(tmp_path: Path) -> None:
    beside = replace(CHECKPOINT, files={}, unused={"mtp.w": InMemory(torch.ones(4))})
    (tmp_path / "x.gguf").write_bytes(b"")
    assert record({}, beside)["unused"] == {"mtp.w": 16}
    found = record({"x.gguf": tmp_path / "x.gguf"}, beside)
    assert found["unused"] == {}
    assert [each["name"] for each in found["left_out"]] == ["mtp.w"]


def test_a_saved_folder_stands(saved: Path) -> None:
    assert stands(saved, CHECKPOINT, STEPS)


def test_a_gguf_file_stands_with_its_records_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"weights")
    (tmp_path / f"tiny.gguf{RECORDS_SUFFIX}").mkdir()
    path = tmp_path / f"tiny.gguf{RECORDS_SUFFIX}" / PROVENANCE
    path.write_text(json.dumps(record({"tiny.gguf": file})))
    assert stands(file, CHECKPOINT, STEPS)
    file.write_bytes(b"others")
    assert not stands(file, CHECKPOINT, STEPS)


def test_another_model_or_other_steps_do_not_stand(saved: Path) -> None:
    assert not stands(saved, tiny_checkpoint(num_hidden_layers=1, seed=2), STEPS)
    assert not stands(saved, CHECKPOINT, STEPS[:1])
    assert not stands(saved, CHECKPOINT, [STEPS[0], ("prune", {"sparsity": 0.4})])


@pytest.mark.parametrize("content", [b"weights!", b"Weights", None])
def test_a_changed_or_missing_file_does_not_stand(saved: Path, content: bytes | None) -> None:
    (saved / "model.safetensors").unlink()
    if content is not None:
        (saved / "model.safetensors").write_bytes(content)
    assert not stands(saved, CHECKPOINT, STEPS)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"steps": 5}', '{"steps": [{}]}', "[" * 5000, "\ud800"]
)
def test_a_record_that_is_none_does_not_stand(saved: Path, text: str) -> None:
    (saved / PROVENANCE).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    assert not stands(saved, CHECKPOINT, STEPS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/text.txt", "text.txt"),
        ("/home/me/models/tiny/", "tiny"),
        ("~/chat.jsonl:2", "chat.jsonl:2"),
        ("C:\\Users\\me\\text.txt", "text.txt"),
        ("C:/Users/me/text.txt", "text.txt"),
        ("owner/model", "owner/model"),
        ("texts/*.txt", "texts/*.txt"),
        ("hf:name:config", "hf:name:config"),
        ("", ""),
    ],
)
def test_absolute_paths_lose_all_but_their_name(text: str, shown: str) -> None:
    assert without_paths(text) == shown
    assert without_paths({"a": [text, (text,)], "b": {"c": text}}) == {
        "a": [shown, [shown]],
        "b": {"c": shown},
    }


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="a/~C:\\.", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


@given(PLAIN)
def test_no_absolute_path_is_left(value: Any) -> None:
    found = without_paths(value)
    assert without_paths(found) == found
    texts = [found] if isinstance(found, str) else []
    while isinstance(found, dict | list) and found:
        found = list(found.values() if isinstance(found, dict) else found)
        texts += [each for each in found if isinstance(each, str)]
        inner = [each for each in found if isinstance(each, dict | list) and each]
        found = inner[0] if inner else None
    for text in texts:
        assert not PurePosixPath(text).is_absolute()
        assert not PureWindowsPath(text).is_absolute()


def test_versions_are_those_installed() -> None:
    assert library_version("torch") == torch.__version__
    assert library_version("no-such-distribution") == "not installed"
