"""Taylor scores against gradients of the whole model and against finite differences."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_model, tiny_windows

from birdbone.checkpoints.tensors import digest
from birdbone.errors import Cancelled, NumericsError
from birdbone.models.blocks.linears import all_linears
from birdbone.models.passes.taylor import taylor_scores


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("arch", ["llama_tied", "gpt2", "mixtral", "gemma3"])
def test_scores_are_weights_times_gradients_summed_over_windows(arch: str) -> None:
    tokens = tiny_windows(3, 16).tokens
    found = taylor_scores(tiny_checkpoint(arch), tokens, unheard)
    model = tiny_model(arch)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for window in tokens.split(1):
        model.zero_grad()
        model(window, labels=window).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[name] += (parameter * parameter.grad).abs().detach()
    assert found.keys() == {each.tensor for each in all_linears(tiny_checkpoint(arch))}
    for name, scores in found.items():
        torch.testing.assert_close(scores, expected[name], rtol=1e-4, atol=1e-8)
        assert scores.any()


def test_a_score_is_the_loss_that_shrinking_the_weight_would_cost() -> None:
    window = tiny_windows(1, 16).tokens
    found = taylor_scores(tiny_checkpoint(), window, unheard)
    name, step = "model.layers.1.mlp.up_proj.weight", 0.1
    model = tiny_model().double()
    parameter = model.get_parameter(name)
    for place in ((0, 0), (5, 9), (63, 31)):
        with torch.no_grad():
            value = float(parameter[place])
            losses: list[float] = []
            for factor in (1 + step, 1 - step):
                parameter[place] = value * factor
                # norms are in float32 whatever the weights are, so the step is wide
                logits = model(window).logits[0, :-1]
                losses.append(float(torch.nn.functional.cross_entropy(logits, window[0, 1:])))
            parameter[place] = value
        slope = abs(losses[0] - losses[1]) / (2 * step)
        assert float(found[name][place]) == pytest.approx(slope, rel=0.02)


def test_the_checkpoint_is_not_touched_and_can_be_scored_again() -> None:
    checkpoint, tokens = tiny_checkpoint(), tiny_windows(2, 8).tokens
    before = {name: digest(tensor) for name, tensor in checkpoint.tensors.items()}
    first, second = (taylor_scores(checkpoint, tokens, unheard) for _ in range(2))
    assert {name: digest(tensor) for name, tensor in checkpoint.tensors.items()} == before
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(tensor.requires_grad for tensor in checkpoint.tensors.values())


def test_a_loss_that_is_not_finite_names_the_window() -> None:
    checkpoint = tiny_checkpoint()
    head = checkpoint.tensors["lm_head.weight"].clone()
    head[0] = float("nan")
    broken = checkpoint.evolve({"lm_head.weight": head})
    with pytest.raises(NumericsError, match="calibration window 1 is nan"):
        taylor_scores(broken, tiny_windows(2, 8).tokens, unheard)


def test_every_window_is_announced_and_may_stop_the_work() -> None:
    told: list[tuple[int, int]] = []

    def stop_at_two(done: int, total: int) -> None:
        told.append((done, total))
        if done == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        taylor_scores(tiny_checkpoint(), tiny_windows(3, 8).tokens, stop_at_two)
    assert told == [(1, 3), (2, 3)]
