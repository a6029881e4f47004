import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.scoring import LossChange, TextScore, text_scores


def test_each_model_stands_where_plain_logits_put_it() -> None:
    dense, other = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1)
    other_text, windows = tiny_windows(2, 24, seed=5), tiny_windows(3)
    with torch.no_grad():
        p, q = (
            Skeleton(each).fill()(windows.tokens, use_cache=False).logits[:, :-1].double()
            for each in (dense, other)
        )
    first, second = (each.log_softmax(-1) for each in (p, q))
    told = [-each.gather(-1, windows.tokens[:, 1:, None]).mean() for each in (first, second)]
    divergence = (first.exp() * (first - second)).sum(-1).mean()
    heard = set()
    (_, elsewhere), (same, found) = text_scores(
        dense,
        [dense, other],
        [other_text, windows],
        announce=lambda label, done, total: heard.add(label),
    )
    # float32 logits.
    assert not same.kl.any()
    assert float(same.nll.mean()) == pytest.approx(float(told[0]), rel=1e-5)
    assert float(found.kl.mean()) == pytest.approx(float(divergence), rel=1e-5)
    assert float(found.nll.mean()) == pytest.approx(float(told[1]), rel=1e-5)
    assert (found.kl.shape, elsewhere.kl.shape) == ((3, 15), (2, 23))
    assert heard == {"dense blocks", "judging blocks, 2", "windows compared"}


def test_the_loss_is_the_mix_of_both() -> None:
    kl, nll = torch.tensor([[2.0]]), torch.tensor([[6.0]])
    assert TextScore(kl, nll).loss(0.25) == 5.0


def change(*differences: float) -> LossChange:
    """Of a loss of 3 nats a token, one difference for each window."""
    before = torch.full((len(differences), 2), 3.0, dtype=torch.float64)
    apart = torch.tensor(differences, dtype=torch.float64).unsqueeze(1)
    # Tokens of a window may differ as they like: windows' means count.
    return LossChange.between(before, before + apart + torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("differences", "better", "worse"),
    [
        ((-0.1, -0.1), True, False),
        ((0.1, 0.1), False, True),
        ((0.0, 0.0), False, False),
        # Two standard errors are as much as the two differences are apart.
        ((-0.31, -0.1), True, False),
        ((-0.29, -0.1), True, False),
        ((0.31, 0.1), False, False),
        ((0.29, 0.1), False, True),
        ((-0.1,), True, False),
        ((0.1,), False, True),
        ((float("nan"), 0.1), False, True),
    ],
)
def test_a_loss_changes_measurably_or_not(
    differences: tuple[float, ...], better: bool, worse: bool
) -> None:
    found = change(*differences)
    assert (found.better, found.worse) == (better, worse)
