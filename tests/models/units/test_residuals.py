"""Sums over batches against products of everything at once, in float64."""

from __future__ import annotations

import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.models.blocks.linears import Linear, find_linears
from birdbone.models.blocks.replay import capture, replay
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.units.residuals import MissingSum, lacking, run_watched

PATH = "model.layers.0."


def linears(block: torch.nn.Module) -> dict[str, Linear]:
    return {each.name.removeprefix(PATH): each for each in find_linears(block, PATH)}


def test_sums_of_batches_are_the_product_of_all() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    generator = torch.Generator().manual_seed(0)
    with skeleton.block(0) as block:
        linear = linears(block)["mlp.up_proj"]  # [64, 32]
    inputs = torch.randn(4, 16, 32, generator=generator, dtype=torch.float64)
    apart = torch.randn(4, 16, 64, generator=generator, dtype=torch.float64)
    total = MissingSum(linear, torch.zeros(64, 32, dtype=torch.float64))
    for place in range(4):
        total.add(inputs[place], apart[place])
    fed = total.fed()
    x, d = inputs.reshape(-1, 32), apart.reshape(-1, 64)
    assert fed.missing is not None
    torch.testing.assert_close(fed.missing.double(), d.T @ x)
    # The Gram matrix is a mean over tokens, in the accumulator's own scale.
    wanted = x.T @ x
    scale = float(wanted.trace()) / float(fed.gram.matrix.double().trace())
    torch.testing.assert_close(fed.gram.matrix.double() * scale, wanted, rtol=1e-5, atol=1e-4)


def test_the_residual_is_of_the_output_of_the_block() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    tokens = tiny_windows(2).tokens
    (batch,) = capture(skeleton, [tokens])
    with skeleton.block(0) as block:
        linear = linears(block)["mlp.down_proj"]
        inputs, output = run_watched(block, PATH, linear, batch.hidden, batch.calls[0])
        torch.testing.assert_close(output, replay(block, batch.hidden, batch.calls[0]))
        target = output + torch.ones_like(output)
        weight = block.get_parameter("mlp.down_proj.weight").detach()
        fed = lacking(block, PATH, linear, weight, [batch.hidden], [batch.calls[0]], [target])
    # A residual of one everywhere: each row of D'X is the sum of the inputs.
    assert fed.missing is not None
    sums = inputs.reshape(-1, 64).double().sum(0).expand(32, 64)
    torch.testing.assert_close(fed.missing.double(), sums, rtol=1e-5, atol=1e-4)
