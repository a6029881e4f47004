"""The estimate of a pass's memory: it counts what is there, and grows with what it depends on."""

from __future__ import annotations

import pytest
from tiny import tiny_checkpoint, tiny_configs, tiny_windows

from birdbone.models.memory import pass_bytes

WINDOWS = tiny_windows(4, 16)


@pytest.mark.parametrize("arch", tiny_configs)
def test_every_architecture_has_an_estimate(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    bare, whole = (pass_bytes(checkpoint, WINDOWS, 4, grams=grams) for grams in (False, True))
    # At least what lies outside the blocks and one block; at most a few times the tiny model.
    assert checkpoint.num_bytes / 3 < bare < whole < 10 * checkpoint.num_bytes


def test_grams_are_counted_for_every_linear_and_the_widest_factorised() -> None:
    checkpoint = tiny_checkpoint()
    bare, whole = (pass_bytes(checkpoint, WINDOWS, 4, grams=grams) for grams in (False, True))
    # q, k, v, o, gate, up of width 32, down of 64; six copies while that one is factorised.
    assert whole - bare == 4 * (6 * 32**2 + 64**2 + 6 * 64**2)


def test_every_expert_has_a_gram_of_its_own() -> None:
    few, many = (
        pass_bytes(tiny_checkpoint("mixtral", num_local_experts=n), WINDOWS, 4, grams=True)
        - pass_bytes(tiny_checkpoint("mixtral", num_local_experts=n), WINDOWS, 4, grams=False)
        for n in (4, 8)
    )
    assert many - few == 4 * 4 * (32**2 + 64**2)


def test_hidden_states_of_all_windows_count_but_activations_of_one_batch_only() -> None:
    checkpoint = tiny_checkpoint()
    short, long = (pass_bytes(checkpoint, tiny_windows(n, 16), 4, grams=False) for n in (4, 8))
    assert long - short == 2 * 4 * 16 * 32 * 4
    one, four = (pass_bytes(checkpoint, WINDOWS, size, grams=False) for size in (1, 4))
    assert four - one == 3 * 16 * 4 * 64 * 4
    assert pass_bytes(checkpoint, WINDOWS, 100, grams=False) == four


def test_of_a_great_vocabulary_the_logits_of_one_batch_count() -> None:
    """They are gone before the blocks take what they take."""
    checkpoint = tiny_checkpoint(vocab_size=8192)
    one, four = (pass_bytes(checkpoint, WINDOWS, size, grams=True) for size in (1, 4))
    assert four - one == 3 * 16 * 8192 * 4


def test_a_paired_pass_holds_two_streams_one_batch_of_inputs_and_twice_the_grams() -> None:
    checkpoint = tiny_checkpoint()
    alone, paired = (
        pass_bytes(checkpoint, WINDOWS, 4, grams=True, paired=each) for each in (False, True)
    )
    hidden = 2 * WINDOWS.num_tokens * 32 * 4
    inputs = 4 * 16 * (6 * 32 + 64) * 4
    grams = 4 * (6 * 32**2 + 64**2 + 6 * 64**2)
    assert paired - alone == hidden + inputs + grams
