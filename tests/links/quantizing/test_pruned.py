"""Pruned models are quantised jointly: zeros stay, and the other weights compensate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, codes_of, weight_of

from birdbone.engine import Chain, run
from birdbone.links import profile, prune, quantize, score
from birdbone.models.blocks.linears import all_linears
from birdbone.models.blocks.skeleton import Skeleton


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("given", [{}, {"sweeps": 2, "refit": True}, {"method": "signround"}])
async def test_jointly_the_mask_is_held_and_survivors_alone_are_rounded(
    pattern: str, given: Any
) -> None:
    thinning = Chain(profile(), score(), prune(pattern=pattern))
    thin = await run(thinning, calibrated(tiny_checkpoint(hidden_size=64), num=16, length=32))
    if given.get("method") == "signround":
        given = {**given, "iterations": 3}
    light = (await run(quantize(bits=3, group_size=16, **given), thin))["checkpoint"]
    for linear in all_linears(thin["checkpoint"]):
        kept = weight_of(thin["checkpoint"], linear) != 0
        codes = codes_of(light)[linear.tensor].codes
        assert not codes[~kept].any(), linear.name
        if pattern == "2:4":
            assert ((codes != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all()
        # Scales are fitted to the survivors: nearly all of these keep a code of their own.
        assert float((codes[kept] != 0).float().mean()) > 0.8, linear.name


async def test_jointly_survivors_make_up_for_each_others_rounding() -> None:
    thinning = Chain(profile(), score(), prune(sparsity=0.5))
    thin = await run(thinning, calibrated(tiny_checkpoint(hidden_size=64), num=16, length=32))
    name = "model.layers.0.mlp.down_proj.weight"
    skeleton, rows = Skeleton(thin["checkpoint"]).fill(), []
    module = skeleton.get_submodule(name.removesuffix(".weight"))
    module.register_forward_pre_hook(lambda _, args: rows.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        skeleton(thin["calibration"].tokens, use_cache=False)
    errors = {}
    for method in ("rtn", "gptq"):
        asked = quantize(bits=3, group_size=16, method=method, matching=0.0)
        light = (await run(asked, thin))["checkpoint"]
        error = light.refs[name].load() - thin["checkpoint"].tensors[name]
        errors[method] = float((rows[0] @ error.T).square().sum())
    assert errors["gptq"] < 0.8 * errors["rtn"]
