from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.masks import (
    UNSTRUCTURED,
    Pattern,
    keep_mask,
    keep_mask_n_of_m,
    num_better,
    pattern_mask,
)

# Few distinct values, so that ties are the rule.
tied_scores = st.integers(1, 6).flatmap(
    lambda rows: st.integers(1, 9).flatmap(
        lambda cols: st.lists(st.integers(0, 3), min_size=rows * cols, max_size=rows * cols).map(
            lambda values: torch.tensor(values, dtype=torch.float32).view(rows, cols)
        )
    )
)


def removed_by_stable_sort(scores: torch.Tensor, count: int) -> set[int]:
    return set(sorted(range(scores.numel()), key=scores.flatten().tolist().__getitem__)[:count])


@given(scores=tied_scores, sparsity=st.floats(0, 1))
def test_layer_mask_is_a_stable_sort_cut_at_the_exact_count(
    scores: torch.Tensor, sparsity: float
) -> None:
    mask = keep_mask(scores, sparsity=sparsity)
    removed = set((~mask).flatten().nonzero().flatten().tolist())
    assert removed == removed_by_stable_sort(scores, round(sparsity * scores.numel()))


@given(scores=tied_scores, sparsity=st.floats(0, 1))
def test_row_mask_is_the_layer_mask_of_each_row(scores: torch.Tensor, sparsity: float) -> None:
    mask = keep_mask(scores, sparsity=sparsity, scope="row")
    rows = [keep_mask(row.unsqueeze(0), sparsity=sparsity) for row in scores]
    assert torch.equal(mask, torch.cat(rows))


@pytest.mark.parametrize(("sparsity", "kept"), [(0.0, 6), (1.0, 0), (0, 6), (1, 0)])
def test_the_ends_are_exact_on_equal_scores(sparsity: float, kept: int) -> None:
    assert int(keep_mask(torch.zeros(2, 3), sparsity=sparsity).sum()) == kept


@given(
    scores=st.lists(st.integers(0, 3), min_size=24, max_size=24),
    pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (2, 3)]),
)
def test_n_of_m_keeps_the_largest_of_each_group(
    scores: list[int], pattern: tuple[int, int]
) -> None:
    n, m = pattern
    mask = keep_mask_n_of_m(torch.tensor([scores], dtype=torch.float32), n=n, m=m)
    for start in range(0, 24, m):
        group = torch.tensor(scores[start : start + m], dtype=torch.float32)
        expected = [i not in removed_by_stable_sort(group, m - n) for i in range(m)]
        assert mask[0, start : start + m].tolist() == expected


def test_pattern_mask_ranks_rows_apart_only_when_asked() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    layer = pattern_mask(scores, sparsity=0.5, pattern=UNSTRUCTURED)
    rows = pattern_mask(scores, sparsity=0.5, pattern=UNSTRUCTURED, scope="row")
    assert layer.tolist() == [[False, False], [True, True]]
    assert rows.tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("text", ["unstructured", "2:4", "4:8", "1:16"])
def test_patterns_print_as_they_are_written(text: str) -> None:
    assert str(Pattern.parse(text)) == text


def test_two_of_four_means_two_kept() -> None:
    assert Pattern.parse("2:4").n_of_m == (2, 4)
    mask = keep_mask_n_of_m(torch.arange(4.0).view(1, 4), n=1, m=4)
    assert mask.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("text", ["2-4", "", "two:four", "2:4:8", "-2:4"])
def test_unknown_patterns_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match=f"pattern '{text}' is not known; write 'unstructured'"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["4:4", "0:4", "5:4"])
def test_patterns_that_keep_all_or_none_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="n must be at least 1, below m"):
        Pattern.parse(text)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan"), None])
def test_sparsity_out_of_range_is_refused(sparsity: float | None) -> None:
    with pytest.raises(SettingError, match=r"sparsity .* is out of range"):
        pattern_mask(torch.ones(2, 2), sparsity=sparsity, pattern=UNSTRUCTURED)


def test_sparsity_beside_a_pattern_is_refused() -> None:
    with pytest.raises(SettingError, match=r"sparsity 0.5 was given with pattern 2:4"):
        pattern_mask(torch.ones(2, 4), sparsity=0.5, pattern=Pattern((2, 4)))


def test_width_not_of_whole_groups_is_refused() -> None:
    with pytest.raises(SettingError, match="width 6 does not divide into groups of 4"):
        keep_mask_n_of_m(torch.ones(2, 6), n=2, m=4)


def test_scores_must_be_finite() -> None:
    scores = torch.tensor([[1.0, float("nan"), float("inf"), 0.0]])
    with pytest.raises(SolverError, match=r"scores .* 1 NaN and 1 infinite values of 4"):
        keep_mask(scores, sparsity=0.5)
    with pytest.raises(SolverError, match=r"scores .* 1 NaN and 1 infinite values of 4"):
        keep_mask_n_of_m(scores, n=2, m=4)


@pytest.mark.parametrize("kind", ["drawn", "tied", "sorted", "striped"])
@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
def test_a_layer_of_many_weights_is_cut_at_the_exact_count_too(kind: str, share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(600, 640, generator=draw)  # more than are looked at one by one
    if kind == "tied":
        scores = (scores * 8).floor()
    elif kind == "sorted":
        scores = scores.flatten().sort().values.view(600, 640)
    elif kind == "striped":  # what a sample at even distances sees is unlike the rest
        scores.view(-1)[:: scores.numel() // (1 << 14)] += 5
    count = round(share * scores.numel())
    mask = keep_mask(scores, sparsity=share)
    order = scores.flatten().sort(stable=True).indices
    assert not mask.flatten()[order[:count]].any()
    assert mask.flatten()[order[count:]].all()


def test_of_equals_the_later_is_the_better() -> None:
    candidates = torch.tensor([[2.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert num_better(candidates).tolist() == [[1.0, 2.0], [2.0, 1.0], [0.0, 0.0]]
