"""Fisher weights against gradients taken with respect to an added error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.errors import NumericsError
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.fisher import output_fisher

_WINDOWS = tiny_windows(3, 12, seed=5).tokens


def _silent(done: int, total: int) -> None:
    """Announce nothing."""


def _gradients(path: Callable[[Any], Any], arch: str) -> Tensor:
    """dL/dy of each window's summed loss, [windows, length, channels], from a zero added to y."""
    model = Skeleton(tiny_checkpoint(arch)).fill()
    module, found = path(model), []
    for tokens in _WINDOWS.split(1):
        added: list[Tensor] = []

        def add(_: Any, args: Any, output: Tensor, added: list[Tensor] = added) -> Tensor:
            added.append(torch.zeros_like(output, requires_grad=True))
            return output + added[0]

        hook = module.register_forward_hook(add)
        logits = model(tokens, use_cache=False).logits
        hook.remove()
        losses = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum")
        found.append(torch.autograd.grad(losses, added[0])[0])
    return torch.cat(found)


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gemma3", "opt"])
def test_outputs_and_head(arch: str) -> None:
    found = output_fisher(tiny_checkpoint(arch), _WINDOWS, _silent)
    for name, fisher in list(found.outputs.items())[::4]:
        wanted = _gradients(lambda model, name=name: model.get_submodule(name), arch)
        torch.testing.assert_close(
            fisher, wanted.square().flatten(0, -2).mean(0), rtol=1e-4, atol=1e-9
        )
    assert found.num_tokens == _WINDOWS.numel()
    if arch != "opt":
        wanted = _gradients(lambda model: model.get_output_embeddings(), arch)
        assert found.head is not None
        torch.testing.assert_close(
            found.head, wanted.square().flatten(0, -2).mean(0), rtol=1e-4, atol=1e-9
        )
        assert found.head_inputs is not None
        assert found.head_inputs.num_tokens == _WINDOWS.numel()


def test_every_plain_linear() -> None:
    found = output_fisher(tiny_checkpoint("llama"), _WINDOWS, _silent)
    assert len(found.outputs) == 21
    assert all(bool((each >= 0).all()) and float(each.sum()) > 0 for each in found.outputs.values())


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_embedding_error(arch: str) -> None:
    """Gemma multiplies the rows of its embedding by the square root of their width."""
    error = torch.randn(128, 32, generator=torch.Generator().manual_seed(0)) * 0.01
    found = output_fisher(tiny_checkpoint(arch), _WINDOWS, _silent)
    gradients = _gradients(lambda model: model.get_input_embeddings(), arch)
    moved = error[_WINDOWS] * (32**0.5 if arch == "gemma3" else 1.0)
    wanted = 0.5 * (gradients * moved).square().sum() / _WINDOWS.numel()
    assert found.tokens.tolist() == sorted(set(_WINDOWS.flatten().tolist()))
    assert found.embedding_rise(error[found.tokens]) == pytest.approx(float(wanted), rel=1e-2)


def test_loss_not_finite() -> None:
    checkpoint = tiny_checkpoint("llama")
    broken = checkpoint.refs["model.norm.weight"].load() * float("nan")
    with pytest.raises(NumericsError, match="calibration window 1 is nan"):
        output_fisher(checkpoint.evolve({"model.norm.weight": broken}), _WINDOWS, _silent)
