"""Estimates of work: counts against what a pass does, and stand-ins for what is not there yet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint, tiny_windows

from birdbone.models.blocks.linears import all_linears
from birdbone.models.planning.effort import (
    SolverWork,
    num_blocks,
    outlined_windows,
    remade,
    rewriting,
)

SIZES = st.floats(0, 1e6)


@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 100))
def test_work_adds_up(a: float, b: float, c: float, d: float, times: int) -> None:
    one, other = SolverWork(a, b), SolverWork(c, d)
    total = one.and_more(times, other)
    assert total.solves == pytest.approx(a + times * c)
    assert total.products == pytest.approx(b + times * d)
    assert one.and_more(0, other) == one


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "gemma3", "falcon"])
def test_blocks_are_counted_by_any_name_of_the_key(arch: str) -> None:
    assert num_blocks(tiny_checkpoint(arch)) == 3


def test_blocks_of_a_config_inside_another_are_the_text_models() -> None:
    made = tiny_checkpoint("gpt2", n_layer=2)
    assert "num_hidden_layers" not in made.config
    assert num_blocks(made) == 2


def test_a_stated_count_builds_no_model() -> None:
    broken = replace(tiny_checkpoint(), config={"model_type": "none", "num_hidden_layers": 7})
    assert num_blocks(broken) == 7


def test_a_pass_runs_every_block_on_every_window() -> None:
    checkpoint, windows = tiny_checkpoint(), tiny_windows(5, 16)
    alone = rewriting(checkpoint, windows, paired=False, solver=SolverWork(2.0, 0.5))
    assert alone == {
        "block_passes": 30,  # once to observe, once to go on: 3 blocks, 5 windows
        "gram_passes": 15,
        "head_passes": 4,
        "solves": 6.0,
        "products": 1.5,
        "moved_bytes": 2 * checkpoint.num_bytes,
    }
    paired = rewriting(checkpoint, windows, paired=True, solver=SolverWork(2.0, 0.5))
    assert paired == {**alone, "block_passes": 45, "gram_passes": 30}


def test_stand_ins_for_windows_differ_from_each_other() -> None:
    first, second = (outlined_windows(3, 4, name, at) for name, at in (("a", 0), ("b", 12)))
    assert first.tokens.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert (first.text, second.text) == ("a", "b")
    assert first.tokens.dtype == torch.int64
    assert first.digest != second.digest


def test_remade_tensors_have_shape_dtype_and_no_values() -> None:
    checkpoint = tiny_checkpoint()
    linears = all_linears(checkpoint)[:7]
    found = remade(checkpoint, linears)
    assert list(found) == [each.tensor for each in linears]
    for name, outlined in found.items():
        assert outlined.shape == checkpoint.refs[name].shape
        assert outlined.dtype == checkpoint.refs[name].dtype
        assert outlined.held


def test_experts_of_one_tensor_are_remade_once() -> None:
    checkpoint = tiny_checkpoint("mixtral")
    experts = [each for each in all_linears(checkpoint) if each.expert is not None]
    found = remade(checkpoint, experts)
    assert len(experts) > len(found)
    assert all(outlined.shape[0] == 4 for outlined in found.values())
