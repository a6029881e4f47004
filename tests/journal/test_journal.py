"""Reading a run folder: the order of steps, what led to one, what is missing or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_checkpoint

from birdbone.checkpoints.manifest import decode_manifest, encode_manifest
from birdbone.errors import CheckpointError, RunFolderError
from birdbone.journal import Journal, RunFolder
from birdbone.journal.journal import KeptOutcome, parse_step, plain
from birdbone.journal.records import Encoder


def numbers(found: list[KeptOutcome]) -> list[int]:
    return [each.number for each in found]


def reseal(journal: Journal, kept: KeptOutcome, **changes: Any) -> None:
    """Change an outcome's file, and give it the checksum of its new content."""
    path = journal.outcome_path(kept.key)
    path.write_bytes(encode_manifest({**decode_manifest(path.read_bytes()), **changes}))


def test_steps_come_in_the_order_they_were_done(journal: Journal) -> None:
    found = journal.steps()
    assert numbers(found) == [1, 2, 3, 4]
    assert [each.step.link for each in found] == ["begin", "make", "grow", "grow"]
    assert [each.step.settings.get("by") for each in found[2:]] == [1.0, 2.0]
    assert journal.keys() == sorted(each.key for each in found)
    assert journal.read(found[3].key) == found[3]
    assert journal.step(3) == found[2]


def test_the_last_run_is_known_by_its_keys(journal: Journal) -> None:
    found = journal.steps()
    assert journal.last() == [found[0].key, found[1].key, found[3].key]
    assert journal.in_progress() == []
    assert numbers(journal.leading_to(found[3])) == [1, 2, 4]
    assert numbers(journal.leading_to(found[1])) == [1, 2]


def test_the_steps_of_the_last_run_come_in_its_order(journal: Journal) -> None:
    keys = journal.last()
    (journal.path / "last.json").write_bytes(
        encode_manifest({"keys": [keys[2], keys[0], "gone", keys[2]], "open": []})
    )
    assert numbers(journal.steps_of_last_run()) == [4, 1]


def test_what_led_to_an_older_step_is_all_before_it(journal: Journal) -> None:
    assert numbers(journal.leading_to(journal.step(3))) == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_without_a_list_of_the_last_run_it_is_unknown(journal: Journal, content: bytes) -> None:
    (journal.path / "last.json").write_bytes(content)
    assert (journal.last(), journal.in_progress()) == ([], [])
    assert numbers(journal.leading_to(journal.step(4))) == [1, 2, 3, 4]


def test_values_and_models_come_back(journal: Journal) -> None:
    sizes = journal.value(journal.step(4), "sizes")
    assert torch.equal(sizes["tensor"], torch.full((3,), 2.0))
    assert sizes["pair"] == (1, 2.0)
    assert journal.checkpoint(journal.step(4)).id == tiny_checkpoint(num_hidden_layers=1).id
    with pytest.raises(RunFolderError, match=r"^step 1 \(begin\) added no 'plan'; it added seed$"):
        journal.value(journal.step(1), "plan")
    with pytest.raises(RunFolderError, match=r"^step 1 \(begin\) comes before a model is loaded; "):
        journal.checkpoint(journal.step(1))


def test_a_missing_model_is_named(journal: Journal) -> None:
    for path in (journal.path / "manifests").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match=r"the store lacks .*; compute it again$"):
        journal.checkpoint(journal.step(2))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder; give the folder .* as --run$"):
        Journal(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_not_there_lists_those_that_are(journal: Journal) -> None:
    with pytest.raises(RunFolderError, match=r"run' has no step 9; it has 1, 2, 3, 4$"):
        journal.step(9)


def test_an_empty_folder_has_no_steps(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").close()
    empty = Journal(tmp_path / "run")
    assert empty.steps() == []
    with pytest.raises(RunFolderError, match=r"has no step 1; it has none$"):
        empty.step(1)


def test_a_step_deleted_while_it_is_listed_is_left_out(journal: Journal) -> None:
    """Another process may collect garbage: reading takes no lock."""
    path = journal.outcome_path(journal.step(3).key)
    path.unlink()
    path.symlink_to("gone")
    assert numbers(journal.steps()) == [1, 2, 4]
    with pytest.raises(FileNotFoundError):
        journal.read(path.stem)


def test_damage_names_the_file_and_what_to_do(journal: Journal) -> None:
    kept = journal.step(3)
    path = journal.outcome_path(kept.key)
    path.write_bytes(path.read_bytes().replace(b'"by"', b'"my"'))
    with pytest.raises(RunFolderError) as caught:
        journal.steps()
    assert str(caught.value) == (
        f"{path} is damaged: its checksum does not match; delete it and run the same command again"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": "0" * 64}, "its content belongs to another key"),
        ({"steps": []}, "list index out of range"),
        ({"steps": [5]}, "its record is not a Step"),
        ({"steps": [{"tensor": {}}]}, "a step's record cannot hold tensors"),
        ({"added": [["seed"]]}, "sequence element"),
        ({"number": "first"}, "number"),
    ],
)
def test_content_that_is_no_outcome_is_refused(
    journal: Journal, changes: dict[str, Any], words: str
) -> None:
    kept = journal.step(3)
    reseal(journal, kept, **changes)
    with pytest.raises(RunFolderError, match=f"is damaged: [^;]*{words}"):
        journal.read(kept.key)


def test_an_outcome_survives_its_file(journal: Journal) -> None:
    kept = journal.step(4)
    journal.outcome_path(kept.key).write_bytes(kept.to_bytes())
    assert journal.read(kept.key) == kept
    assert kept.with_inner_steps() == [kept.step]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("runs/light:5", ("runs/light", 5)), ("a:b:12", ("a:b", 12)), ("./x:007", ("x", 7))],
)
def test_a_step_is_a_folder_and_a_number(text: str, expected: tuple[str, int]) -> None:
    assert parse_step(text) == (Path(expected[0]), expected[1])


@pytest.mark.parametrize("text", ["runs/light", ":5", "runs/light:", "runs:-1", "runs:1.5", ""])
def test_other_texts_are_no_steps(text: str) -> None:
    with pytest.raises(
        RunFolderError, match=r"is not a step; write RUN:STEP, such as runs/light:5"
    ):
        parse_step(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(VALUES)
@settings(max_examples=25)
def test_plain_data_reads_as_it_was(value: Any) -> None:
    tree = Encoder(lambda tensor: {}, lambda checkpoint: "").tree(value)
    assert plain(json.loads(json.dumps(tree))) == json.loads(json.dumps(value))


def test_what_json_has_no_kind_for_is_spelled_out() -> None:
    tree = {
        "map": [
            [{"tuple": [1, "a"]}, {"float": "nan"}],
            ["path", {"path": "/x"}],
            ["weights", {"tensor": {"dtype": "float32", "shape": [2], "digest": "ab"}}],
            ["model", {"checkpoint": "id", "source": "someone/model"}],
            [3, {"record": "a.Record", "fields": {"left": {"tuple": [True]}}}],
        ]
    }
    assert plain(tree) == {
        '[1, "a"]': "nan",
        "path": "/x",
        "weights": {"dtype": "float32", "shape": [2]},
        "model": "id",
        "3": {"left": [True]},
    }
