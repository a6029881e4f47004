"""What the loss loses with a unit, against the gradient of a factor that is put in by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.errors import NumericsError
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.unit_losses import unit_losses

_WINDOWS = tiny_windows(3, 12, seed=5).tokens


def _silent(done: int, total: int) -> None:
    """Announce nothing."""


def _by_hand(arch: str, name: str, units: int) -> Tensor:
    """Mean over tokens of the squared gradient of each window's summed loss, [units]."""
    model = Skeleton(tiny_checkpoint(arch)).fill()
    module, found = model.get_submodule(name), []
    for tokens in _WINDOWS.split(1):
        factors = torch.ones(tokens.shape[1], units, requires_grad=True)

        def scale(_: Any, args: Any, factors: Tensor = factors) -> Any:
            rows = args[0].reshape(len(factors), units, -1)
            return ((rows * factors.unsqueeze(2)).reshape(args[0].shape),)

        hook = module.register_forward_pre_hook(scale)
        logits = model(tokens, use_cache=False).logits
        hook.remove()
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum")
        found.append(torch.autograd.grad(loss, factors)[0])
    return torch.cat(found).square().mean(0)


@pytest.mark.parametrize(
    ("arch", "name", "size"),
    [
        ("llama", "model.layers.1.mlp.down_proj", 1),
        ("llama", "model.layers.2.self_attn.o_proj", 16),
        ("gemma3", "model.layers.0.mlp.down_proj", 1),
        ("gpt2", "transformer.h.1.mlp.c_proj", 1),
        ("opt", "model.decoder.layers.0.fc2", 1),
    ],
)
def test_a_factor_of_each_unit(arch: str, name: str, size: int) -> None:
    found = unit_losses(tiny_checkpoint(arch), _WINDOWS, {name: size}, _silent)
    wanted = _by_hand(arch, name, len(found[name]))
    torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-9)
    assert float(wanted.max()) > 1e-6


def test_a_loss_that_is_not_finite() -> None:
    dense = tiny_checkpoint()
    name = "model.layers.0.mlp.up_proj.weight"
    broken = dense.evolve({name: torch.full_like(dense.tensors[name], torch.nan)})
    with pytest.raises(NumericsError, match="the loss of calibration window 1 is nan"):
        unit_losses(broken, _WINDOWS, {"model.layers.0.mlp.down_proj": 1}, _silent)
