"""The record says what the model computes, stays small, and is read as hostile text."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VOCAB, tiny_checkpoint, tiny_windows

from birdbone.checkpoints import Checkpoint
from birdbone.errors import CheckpointError
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.record import (
    Record,
    logits_off,
    make_record,
    mean_nll,
    probe_windows,
    read_record,
)


def record_of(checkpoint: Checkpoint, num: int = 2, length: int = 16) -> Record:
    return make_record(
        checkpoint, tiny_windows(num, length), tolerance=1e-3, announce=lambda *_: None
    )


@pytest.mark.parametrize("arch", ["llama_tied", "gpt2", "gemma3", "mixtral"])
def test_it_holds_what_the_whole_model_computes(arch: str) -> None:
    checkpoint, windows = tiny_checkpoint(arch), tiny_windows(2)
    record = record_of(checkpoint)
    with torch.no_grad():
        whole = Skeleton(checkpoint).fill()(windows.tokens, use_cache=False).logits
    for row, (window, logits) in enumerate(zip(record.windows, whole, strict=True)):
        assert window.tokens == windows.tokens[row].tolist()
        nll = torch.nn.functional.cross_entropy(
            logits[:-1], windows.tokens[row, 1:], reduction="none"
        )
        assert window.nll == pytest.approx(nll.tolist(), rel=1e-4)
        assert window.places == [1, 3, 5, 7, 9, 11, 13, 15]
        for place, ids, kept in zip(window.places, window.ids, window.logits, strict=True):
            assert kept == pytest.approx(logits[place, ids].tolist(), rel=1e-4, abs=1e-5)
            assert ids[0] == int(logits[place].argmax())


def test_it_stays_small() -> None:
    checkpoint = tiny_checkpoint(max_position_embeddings=600)
    windows = probe_windows(checkpoint, tiny_windows(9, 512), 512)
    assert windows.tokens.shape == (4, 128)
    record = make_record(checkpoint, windows, tolerance=1e-3, announce=lambda *_: None)
    assert len(record.model_dump_json()) < 30_000


@pytest.mark.parametrize(("asked", "shape"), [(512, (3, 16)), (20, (1, 16)), (5, (1, 5))])
def test_it_holds_no_more_text_than_asked(asked: int, shape: tuple[int, int]) -> None:
    heldout = tiny_windows(3)
    found = probe_windows(tiny_checkpoint(), heldout, asked)
    assert torch.equal(found.tokens, heldout.tokens[: shape[0], : shape[1]])
    assert found.text == heldout.text


@pytest.mark.parametrize("asked", [0, 1])
def test_none_of_the_text_is_kept_where_none_may_be(asked: int) -> None:
    found = probe_windows(tiny_checkpoint(), tiny_windows(3), asked)
    assert found.text == "ids drawn at random"
    assert found.tokens[0, :16].tolist() not in tiny_windows(3).tokens.tolist()


def test_drawn_ids_are_the_same_each_time_and_in_the_vocabulary() -> None:
    first, second = (probe_windows(tiny_checkpoint(), None, 512).tokens for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 64)
    assert int(first.max()) < VOCAB


def test_it_reads_back(tmp_path: Path) -> None:
    record = record_of(tiny_checkpoint())
    assert read_record(tmp_path) is None
    (tmp_path / "proof.json").write_text(record.model_dump_json())
    assert read_record(tmp_path) == record


def test_distance_against_the_formula() -> None:
    record = record_of(tiny_checkpoint())
    same = [window.logits for window in record.windows]
    assert logits_off(record, same) == 0.0
    twice = [[[2 * value for value in row] for row in rows] for rows in same]
    assert logits_off(record, twice) == pytest.approx(1.0)
    same[0][0] = [math.nan] * len(same[0][0])
    assert math.isnan(logits_off(record, same))
    assert mean_nll([[1.0, 2.0], [6.0]]) == 3.0


def changed(**more: Any) -> str:
    document = json.loads(record_of(tiny_checkpoint(), 1).model_dump_json())
    window = {key: more.pop(key) for key in list(more) if key in document["windows"][0]}
    document.update(more)
    if document["windows"]:
        document["windows"][0].update(window)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        changed(dtype="os.system"),
        changed(tolerance=1.5),
        changed(tolerance=float("nan")),
        changed(windows=[]),
        changed(surprise=1),
        changed(nll=[1.0]),
        changed(nll=[float("inf")] * 15),
        changed(places=[99]),
        changed(ids=[[1]]),
        changed(logits=[[0.0]] * 8),
        changed(tokens=[-1] * 16),
        changed(tokens=[1] * 5000),
        " " * (1 << 20) + "{}",
    ],
    ids=range(16),
)
def test_anything_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "proof.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"^proof\.json (is no record|cannot be read): "):
        read_record(tmp_path)
