"""What is particular to ALPS; test_admm.py holds what it shares with plain ADMM."""

from __future__ import annotations

import torch

from birdbone.solvers.alps import prune_alps
from birdbone.solvers.least_squares import refit
from birdbone.solvers.magnitude import prune_magnitude
from birdbone.solvers.masks import Pattern
from birdbone.solvers.normalized import decompose


def test_values_are_least_squares_on_the_mask(make_layer) -> None:
    layer = make_layer(6, 16)
    pruned = prune_alps(layer.weight, layer.gram, sparsity=0.5, damping=0.0)
    for row, kept, values in zip(layer.weight, pruned.mask, pruned.weight, strict=True):
        best = torch.linalg.lstsq(layer.inputs[:, kept], layer.inputs @ row).solution
        torch.testing.assert_close(values[kept], best, rtol=1e-5, atol=1e-7)


def test_its_mask_beats_that_of_magnitude(make_layer) -> None:
    """Both with least-squares values, so that only the masks differ."""
    layer = make_layer(24, 32, tokens=200)
    pruned = prune_alps(layer.weight, layer.gram, sparsity=0.6)
    mask = prune_magnitude(layer.weight, layer.gram, sparsity=0.6).mask
    theirs = refit(layer.weight, mask, layer.gram, steps=64)
    outputs = layer.inputs @ layer.weight.T
    error = (outputs - layer.inputs @ theirs.T).square().sum() / outputs.square().sum()
    assert pruned.relative_error < 0.8 * float(error)


def test_a_spectrum_is_reused_with_its_damping(make_layer) -> None:
    layer = make_layer(6, 16)
    spectrum = decompose(layer.gram, damping=0.03)
    shared = prune_alps(layer.weight, layer.gram, pattern=Pattern((2, 4)), factor=spectrum)
    alone = prune_alps(layer.weight, layer.gram, pattern=Pattern((2, 4)), damping=0.03)
    assert shared.damping == 0.03
    assert torch.equal(shared.weight, alone.weight)
