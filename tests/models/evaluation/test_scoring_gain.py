import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.scoring import Standing, standings


def test_each_model_stands_where_plain_logits_put_it() -> None:
    dense, other = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1)
    windows = tiny_windows(3)
    with torch.no_grad():
        p, q = (
            Skeleton(each).fill()(windows.tokens, use_cache=False).logits[:, :-1].double()
            for each in (dense, other)
        )
    first, second = (each.log_softmax(-1) for each in (p, q))
    told = [-each.gather(-1, windows.tokens[:, 1:, None]).mean() for each in (first, second)]
    divergence = (first.exp() * (first - second)).sum(-1).mean()
    heard = set()
    same, found = standings(
        dense, [dense, other], windows, announce=lambda label, done, total: heard.add(label)
    )
    # float32 logits.
    assert (same.kl, same.nll) == (0.0, pytest.approx(float(told[0]), rel=1e-5))
    assert found.kl == pytest.approx(float(divergence), rel=1e-5)
    assert found.nll == pytest.approx(float(told[1]), rel=1e-5)
    assert heard == {"dense blocks", "judging blocks, 2", "windows compared"}


def test_the_loss_is_the_mix_of_both() -> None:
    assert Standing(kl=2.0, nll=6.0).loss(0.25) == 5.0
