"""The estimate of a pass's memory: it counts what is there, and grows with what it depends on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_windows

from birdbone.checkpoints import BitsAndBytes, Checkpoint, InMemory
from birdbone.checkpoints.safetensors_writer import PIECE_BYTES
from birdbone.models.planning.memory import pass_bytes, written_bytes
from birdbone.models.planning.outline import Outlined, outlined_codes

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
    # Per token four of the widest activations, and the input of every linear.
    assert four - one == 3 * 16 * (4 * 64 + 6 * 32 + 64) * 4
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


def outline(*, held: bool) -> Checkpoint:
    """Two tensors: 1000 and 400 bfloat16 values."""
    sizes = {"embed": 1000, "head": 400}
    refs = {name: Outlined((size,), torch.bfloat16, held=held) for name, size in sizes.items()}
    return Checkpoint({}, refs)


@pytest.mark.parametrize(
    ("held", "groups", "expected"),
    [
        (True, (["embed"], ["head"]), 2000),  # a copy of a piece
        (False, (["embed"], ["head"]), 4 * 1000 + 2000),  # in float32 as it is read
        (False, (["embed", "head"],), 4 * 1400 + 2800 + 2000),  # both, and what they become
    ],
)
def test_writing_holds_what_the_largest_group_is_made_from(
    held: bool, groups: Sequence[list[str]], expected: int
) -> None:
    assert written_bytes(outline(held=held), groups) == expected


def test_writing_copies_pieces_of_a_large_tensor() -> None:
    large = Outlined((1 << 30,), torch.bfloat16, held=True)
    assert written_bytes(Checkpoint({}, {"embed": large}), [["embed"]]) == PIECE_BYTES


def test_bitsandbytes_holds_the_quantised_model() -> None:
    source = InMemory(torch.zeros(64, 64))
    refs = {"w": BitsAndBytes(source, torch.zeros(64, 64), kind="nf4"), "norm": source}
    checkpoint = Checkpoint({}, refs)
    piece = source.num_bytes
    assert written_bytes(checkpoint, [["w"], ["norm"]]) == piece + checkpoint.num_bytes


def test_writing_codes_holds_what_packing_passes_through() -> None:
    codes = outlined_codes(Outlined((8, 64), torch.float32, held=True), 4, 2, torch.bfloat16)
    found = written_bytes(Checkpoint({}, {"codes": codes}), [["codes"]])
    assert found == 2 * codes.num_bytes + 9 * 8 * 64  # with a copy of the result
