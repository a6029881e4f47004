"""Whether healing is kept: on texts whose losses the test chooses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.links.healing import judgement
from birdbone.links.healing.judgement import HealingOutcome, judge_healing, judged_parts
from birdbone.models.evaluation.scoring import TextScore

DENSE = tiny_checkpoint()
TEXTS = {
    "healing": tiny_windows(2, 5, text="the book"),
    "elsewhere": tiny_windows(2, 5, seed=1, text="the paper"),
}
Pair = tuple[TextScore, TextScore]


def score(kl: float, nll: float = 3.0, *, spread: float = 0.0) -> TextScore:
    """Two windows of four predicted tokens; their means lie ``spread`` to either side."""
    apart = torch.tensor([[-spread], [spread]], dtype=torch.float64)
    return TextScore(torch.full((2, 4), kl).double() + apart, torch.full((2, 4), nll).double())


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The outcome for texts with these scores before and after."""

    def judge(*pairs: Pair, kl_weight: float = 1.0) -> HealingOutcome:
        monkeypatch.setattr(judgement, "text_scores", lambda *_, **__: [list(p) for p in pairs])
        texts = dict(list(TEXTS.items())[: len(pairs)])
        return judge_healing(DENSE, (DENSE, DENSE), texts, kl_weight)

    return judge


def test_a_fall_is_kept(judged: Any) -> None:
    found = judged((score(0.5), score(0.4)))
    assert found.kept
    assert found.metrics["reason"] == ("the loss fell on the book and rose measurably on no text")


@pytest.mark.parametrize("after", [0.5, 0.6])
def test_no_fall_is_not_kept(judged: Any, after: float) -> None:
    found = judged((score(0.5), score(after)))
    assert not found.kept
    assert not found.metrics["kept"]


def test_equal_is_no_fall(judged: Any) -> None:
    assert judged((score(0.5), score(0.5))).metrics["reason"] == "the loss fell on no text"


def test_a_measurable_rise_elsewhere_decides(judged: Any) -> None:
    found = judged((score(0.5), score(0.1)), (score(0.5), score(0.6)))
    assert not found.kept
    assert found.metrics["reason"] == "the loss rose measurably on the paper"


def test_a_rise_within_noise_does_not(judged: Any) -> None:
    """Windows differ by 0.2 to either side: two standard errors of the change are 0.4."""
    noisy = (score(0.5), score(0.6, spread=0.2))
    assert judged((score(0.5), score(0.1)), noisy).kept
    certain = (score(0.5), score(0.6, spread=0.01))
    assert not judged((score(0.5), score(0.1)), certain).kept


def test_both_texts_are_named(judged: Any) -> None:
    worse = judged((score(0.5), score(0.6)), (score(0.5), score(0.6)))
    assert worse.metrics["reason"] == "the loss rose measurably on the book and the paper"
    better = judged((score(0.5), score(0.4)), (score(0.5), score(0.4)))
    assert "fell on the book and the paper and" in better.metrics["reason"]


def test_figures_of_each_text(judged: Any) -> None:
    found = judged((score(0.5, 3.0), score(0.4, 2.5)), (score(0.7, 4.0), score(0.6, 3.5))).metrics
    assert (found["kl_before"], found["kl_after"]) == (pytest.approx(0.5), pytest.approx(0.4))
    assert (found["nll_before"], found["nll_after"]) == (3.0, 2.5)
    assert found["elsewhere_kl_after"] == pytest.approx(0.6)
    assert found["elsewhere_nll_after"] == 3.5
    assert found["loss_change_error"] == pytest.approx(0.0)


@pytest.mark.parametrize(("weight", "kept"), [(1.0, True), (0.0, False), (0.9, True)])
def test_the_loss_is_that_of_training(judged: Any, weight: float, kept: bool) -> None:
    """KL fell and the NLL of the text rose: the weight of KL decides."""
    found = judged((score(0.5, 3.0), score(0.1, 3.5)), kl_weight=weight)
    assert found.kept is kept
    assert found.metrics["loss_before"] == pytest.approx(weight * 0.5 + (1 - weight) * 3.0)


@pytest.mark.parametrize("heldout", [1, 3])
def test_the_last_windows_are_held_out(heldout: int) -> None:
    windows = tiny_windows(4, text="healing")
    parts = judged_parts({"healing": windows}, heldout)  # type: ignore[typeddict-item]
    assert list(parts) == ["healing"]
    held: Tensor = parts["healing"].tokens
    assert torch.equal(held, windows.tokens[4 - heldout :])
    assert parts["healing"].text == "healing"


def test_text_from_elsewhere_counts_whole() -> None:
    windows, elsewhere = tiny_windows(4), tiny_windows(2, seed=9)
    ctx: Any = {"healing": windows, "elsewhere": elsewhere}
    assert judged_parts(ctx, 1)["elsewhere"] is elsewhere


def test_of_real_models() -> None:
    """A damaged model, and the original in its place."""
    name = "model.layers.0.mlp.down_proj.weight"
    damaged = DENSE.evolve({name: DENSE.tensors[name] * 0.2})
    better = judge_healing(DENSE, (damaged, DENSE), TEXTS, 1.0)
    worse = judge_healing(DENSE, (DENSE, damaged), TEXTS, 1.0)
    assert better.kept
    assert not worse.kept
    assert better.metrics["kl_after"] == pytest.approx(0, abs=1e-9)
    assert worse.metrics["kl_after"] == better.metrics["kl_before"] > 0
