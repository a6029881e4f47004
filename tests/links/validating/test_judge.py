"""A model beside the original: the original is run once, and only where it has not been."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.verdict import Reference, Verdict
from birdbone.links.validating.judge import judge
from birdbone.models.reading.stored_dtypes import as_dtype

HELD, PAPER = tiny_windows(3, text="the book"), tiny_windows(2, seed=1, text="the paper")
BOTH = {"heldout": HELD, "elsewhere": PAPER}
DENSE = tiny_checkpoint()
DOWN = "model.layers.0.mlp.down_proj.weight"
LIGHT = DENSE.evolve({DOWN: DENSE.tensors[DOWN] * 0.3})


@pytest.fixture(scope="module")
def judged() -> tuple[Verdict, Reference]:
    return judge((DENSE, LIGHT), BOTH, None, 2)


def test_both_texts(judged: tuple[Verdict, Reference]) -> None:
    verdict, reference = judged
    assert verdict.checkpoint == LIGHT.id
    assert reference.checkpoint == DENSE.id
    assert {name: (each.text, each.num_windows) for name, each in verdict.texts.items()} == {
        "heldout": ("the book", 3),
        "elsewhere": ("the paper", 2),
    }
    for each in verdict.texts.values():
        assert each.dense.num_tokens == each.light.num_tokens == each.num_windows * 15
        assert each.mean_kl > 0
        assert each.dtype == "float32"
        assert each.rise == pytest.approx(each.light.value / each.dense.value - 1)
        assert each.median_kl <= each.kl_99 <= each.kl_999


def test_a_model_beside_itself() -> None:
    verdict, _ = judge((DENSE, DENSE), BOTH, None, 2)
    for each in verdict.texts.values():
        assert (each.rise, each.rise_error, each.agreement) == (0.0, 0.0, 1.0)
        assert each.mean_kl == pytest.approx(0, abs=1e-9)


def test_hidden_states_by_text(judged: tuple[Verdict, Reference]) -> None:
    hidden = judged[1].hidden
    assert {digest: tuple(each.shape) for digest, each in hidden.items()} == {
        HELD.digest: (3, 16, 32),
        PAPER.digest: (2, 16, 32),
    }


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_no_figure(batch_size: int, judged: tuple[Verdict, Reference]) -> None:
    verdict, _ = judge((DENSE, LIGHT), BOTH, None, batch_size)
    assert verdict.rise == pytest.approx(judged[0].rise, rel=1e-4)


def test_a_known_run_is_used(judged: tuple[Verdict, Reference]) -> None:
    """With the states of another model in its place the figures are of that model."""
    verdict, reference = judge((DENSE, LIGHT), BOTH, judged[1], 2)
    assert reference is judged[1]
    assert verdict == judged[0]
    zeros = {digest: torch.zeros_like(each) for digest, each in judged[1].hidden.items()}
    other, _ = judge((DENSE, LIGHT), BOTH, Reference(DENSE.id, zeros), 2)
    assert other.heldout.dense != verdict.heldout.dense
    assert other.heldout.light == verdict.heldout.light


def test_a_run_of_another_model_is_not(judged: tuple[Verdict, Reference]) -> None:
    zeros = {digest: torch.zeros_like(each) for digest, each in judged[1].hidden.items()}
    verdict, reference = judge((DENSE, LIGHT), BOTH, Reference("other", zeros), 2)
    assert verdict == judged[0]
    assert reference.checkpoint == DENSE.id


def test_a_run_in_another_dtype_is_not(judged: tuple[Verdict, Reference]) -> None:
    halves = {digest: each.half() for digest, each in judged[1].hidden.items()}
    verdict, reference = judge((DENSE, LIGHT), BOTH, Reference(DENSE.id, halves), 2)
    assert verdict == judged[0]
    assert {each.dtype for each in reference.hidden.values()} == {torch.float32}


def test_a_text_that_is_new(judged: tuple[Verdict, Reference]) -> None:
    """Only that one is run; the result holds both, and no text that is not judged on."""
    known = replace(judged[1], hidden={HELD.digest: judged[1].hidden[HELD.digest]})
    verdict, reference = judge((DENSE, LIGHT), BOTH, known, 2)
    assert verdict == judged[0]
    assert list(reference.hidden) == [HELD.digest, PAPER.digest]
    assert reference.hidden[HELD.digest] is known.hidden[HELD.digest]


def test_one_text_in_both_places() -> None:
    verdict, reference = judge((DENSE, LIGHT), {"heldout": HELD, "elsewhere": HELD}, None, 2)
    assert verdict.elsewhere == verdict.heldout
    assert len(reference.hidden) == 1


def test_the_dtype_of_the_model() -> None:
    half: Checkpoint = as_dtype(LIGHT, torch.bfloat16)
    verdict, reference = judge((as_dtype(DENSE, torch.bfloat16), half), {"heldout": HELD}, None, 2)
    assert verdict.heldout.dtype == str(next(iter(reference.hidden.values())).dtype)[6:]
    assert verdict.elsewhere is None
