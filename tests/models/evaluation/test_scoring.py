"""Perplexity, its rise, KL and agreement: formulas checked by hand and against float64."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.scoring import (
    Comparison,
    compare,
    last_hidden,
    own_perplexity,
    perplexity,
    rise,
    skeleton_pair,
)
from birdbone.texts import Windows


def unheard(label: str, done: int, total: int) -> None:
    """Nobody listens."""


def test_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    value, error = perplexity(torch.full((3, 5), math.log(128.0), dtype=torch.float64))
    assert value == pytest.approx(128.0)
    assert error == pytest.approx(0.0, abs=1e-12)


def test_the_standard_error_is_that_of_the_windows_means() -> None:
    nll = torch.tensor([[1.0, 3.0], [2.0, 4.0], [4.0, 4.0]], dtype=torch.float64)
    value, error = perplexity(nll)
    assert value == pytest.approx(math.exp(3.0))
    assert error == pytest.approx(math.exp(3.0) * 1.0 / math.sqrt(3))  # means 2, 3, 4: spread 1


def test_one_window_alone_has_no_standard_error() -> None:
    assert perplexity(torch.ones(1, 4, dtype=torch.float64)) == (math.e, math.inf)


def test_the_rise_is_paired_so_what_both_find_hard_cancels() -> None:
    dense = torch.tensor([[1.0, 9.0], [5.0, 5.0], [2.0, 2.0]], dtype=torch.float64)
    value, error = rise(dense, dense + math.log(1.1))
    assert value == pytest.approx(0.1)
    assert error == pytest.approx(0.0, abs=1e-12)
    assert rise(dense, dense - math.log(2.0))[0] == pytest.approx(-0.5)


def test_models_with_the_same_content_are_run_once() -> None:
    dense = tiny_checkpoint()
    one, other = skeleton_pair(dense, tiny_checkpoint())
    assert one is other
    changed = dense.evolve({"lm_head.weight": dense.tensors["lm_head.weight"] * 2})
    one, other = skeleton_pair(dense, changed)
    assert (one.checkpoint.id, other.checkpoint.id) == (dense.id, changed.id)


def test_what_leaves_the_last_block_is_what_the_whole_model_has_there() -> None:
    windows, seen = tiny_windows(3, 16), []
    model = Skeleton(tiny_checkpoint()).fill()
    model.model.layers[-1].register_forward_hook(lambda _, args, output: seen.append(output))
    with torch.no_grad():
        model(windows.tokens[:2], use_cache=False)
        model(windows.tokens[2:], use_cache=False)
    told: list[tuple[str, int, int]] = []
    hidden = last_hidden(
        Skeleton(tiny_checkpoint()),
        windows,
        batch_size=2,
        label="blocks",
        announce=lambda *about: told.append(about),
    )
    assert torch.equal(hidden, torch.cat(seen))
    assert told == [("blocks", 1, 3), ("blocks", 2, 3), ("blocks", 3, 3)]


def test_every_token_but_a_windows_first_is_predicted_and_kl_is_never_negative() -> None:
    dense, light = (Skeleton(tiny_checkpoint(seed=seed)) for seed in (0, 1))
    windows = tiny_windows(3, 9)
    sides = [
        (each, last_hidden(each, windows, batch_size=3, label="", announce=unheard))
        for each in (dense, light)
    ]
    told: list[int] = []
    found = compare(
        sides[0],
        sides[1],
        windows,
        announce=lambda label, done, total: told.append(done),
    )
    assert found.dense_nll.shape == found.light_nll.shape == found.kl.shape == (3, 8)
    assert found.kl.dtype == torch.float64
    assert (found.kl > 0).all()
    assert told == [1, 2, 3]


def test_the_worst_windows_are_those_with_the_largest_mean_divergence() -> None:
    kl = torch.tensor([[0.1, 0.1], [0.2, 0.8], [0.3, 0.1], [0.0, 0.0]], dtype=torch.float64)
    light = torch.tensor([[1.0, 1.0], [2.0, 4.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    found = Comparison(torch.ones_like(kl), light, kl, 1.0).worst_windows()
    assert [each.window for each in found] == [1, 2, 0]
    assert found[0].mean_kl == pytest.approx(0.5)
    assert found[0].rise == pytest.approx(math.expm1(2.0))
    assert [each.position for each in found[:2]] == [2, 1]


def test_agreement_counts_tokens_on_which_both_rank_the_same_first() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    windows = Windows(tiny_windows(1, 9).tokens, "one")
    hidden = last_hidden(skeleton, windows, batch_size=1, label="", announce=unheard)
    other = hidden.clone()
    other[:, 2] *= -1  # one position of eight says something else
    found = compare((skeleton, hidden), (skeleton, other), windows, announce=unheard)
    assert found.agreement == 7 / 8
    assert (found.kl != 0).sum() == 1


def test_a_model_alone_scores_as_it_does_beside_another() -> None:
    light, windows = tiny_checkpoint(seed=3), tiny_windows(3, 9)
    skeleton = Skeleton(light)
    hidden = last_hidden(skeleton, windows, batch_size=3, label="", announce=unheard)
    found = compare((skeleton, hidden), (skeleton, hidden), windows, announce=unheard)
    alone = own_perplexity(light, windows, announce=unheard)
    assert alone == pytest.approx(perplexity(found.light_nll)[0], rel=1e-6)
