"""quantize: codes on the grid asked for, zeros kept, and a plain word about what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs
from tiny_contexts import calibrated, scored, weight_of

from birdbone.checkpoints import BitsAndBytes, Checkpoint, Quantized
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError, SolverError
from birdbone.links import prune, quantize
from birdbone.models.bitsandbytes import int8_values, nf4_values
from birdbone.models.linears import all_linears
from birdbone.models.skeleton import Skeleton
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

WITH_EXPERTS = ("mixtral", "gpt_oss")
PLAIN = tuple(arch for arch in tiny_configs if arch not in (*WITH_EXPERTS, "gpt2"))


def codes_of(checkpoint: Checkpoint) -> dict[str, Quantized]:
    """Every tensor held as codes, by name."""
    return {n: ref for n, ref in checkpoint.refs.items() if isinstance(ref, Quantized)}


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [16, 32, None])
async def test_codes_lie_on_the_grid_that_was_asked_for(
    method: Any, bits: Any, group_size: int | None
) -> None:
    ctx = calibrated(tiny_checkpoint())
    light = (await run(quantize(method=method, bits=bits, group_size=group_size), ctx))[
        "checkpoint"
    ]
    for linear in all_linears(ctx["checkpoint"]):
        ref = light.refs[linear.tensor]
        assert isinstance(ref, Quantized)
        assert (ref.bits, ref.group_size) == (bits, group_size or linear.shape[1])
        assert ref.codes.min() >= -(2 ** (bits - 1))
        assert ref.codes.max() <= 2 ** (bits - 1) - 1
        assert ref.codes.unique().numel() > 2 ** (bits - 1)
        dense = weight_of(ctx["checkpoint"], linear)
        if method == "rtn":  # half a step, and a whole one at the end of the grid
            steps = ref.scales.float().repeat_interleave(ref.group_size, dim=1)
            assert ((ref.values(torch.float32) - dense).abs() <= 0.5001 * steps).all()


@pytest.mark.parametrize("arch", PLAIN)
async def test_every_linear_of_every_block_is_stored_as_codes_and_nothing_else(arch: str) -> None:
    ctx = await scored(arch)
    after = await run(quantize(group_size=16), ctx)
    light, dense = after["checkpoint"], ctx["checkpoint"]
    assert codes_of(light).keys() == {each.tensor for each in all_linears(dense)}
    assert all(light.refs[n] is dense.refs[n] for n in dense.refs if n not in codes_of(light))
    metrics = after["history"][-1].metrics
    assert (metrics["linears"], metrics["bytes"]) == (len(codes_of(light)), light.num_bytes)
    assert light.num_bytes < dense.num_bytes / 2


@pytest.mark.parametrize("method", ["rtn", "gptq", "nf4", "llm.int8"])
@pytest.mark.parametrize("arch", WITH_EXPERTS)
async def test_experts_are_left_alone_with_a_warning(arch: str, method: Any) -> None:
    ctx = await scored(arch)
    nf4_values(torch.ones(1, 64))  # bitsandbytes' import has warnings of its own
    message = r"quantize leaves \d+ tensors as they are, such as '.*experts\..*'"
    with pytest.warns(UserWarning, match=message):
        light = (await run(quantize(method=method, group_size=16), ctx))["checkpoint"]
    changed = {n for n, ref in light.refs.items() if ref is not ctx["checkpoint"].refs[n]}
    assert changed == {each.tensor for each in all_linears(light) if each.plain}
    assert not any("expert" in name or "router" in name for name in changed)


@pytest.mark.parametrize("method", ["auto", "rtn", "nf4"])
async def test_a_model_of_conv1d_alone_is_refused(method: Any) -> None:
    message = r"no linear of 'tiny/gpt2' is a plain one.*transformer\.h\.0\.attn\.c_attn"
    with pytest.raises(LinkError, match=message) as caught:
        await run(quantize(method=method, group_size=16), await scored("gpt2"))
    assert isinstance(caught.value.__cause__, SettingError)


async def test_rtn_is_each_layer_rounded_by_itself() -> None:
    ctx = calibrated(tiny_checkpoint())
    light = (await run(quantize(method="rtn", group_size=32), ctx))["checkpoint"]
    name = "model.layers.2.mlp.down_proj.weight"
    expected = quantize_round_to_nearest(ctx["dense"].tensors[name], grid=Grid(4, 32))
    ref = codes_of(light)[name]
    assert torch.equal(ref.codes, expected.codes)
    assert torch.equal(ref.scales, expected.scales)


async def test_gptq_moves_outputs_less_than_rounding_does() -> None:
    ctx = calibrated(tiny_checkpoint(), num=16, length=32)
    name = "model.layers.0.mlp.down_proj.weight"
    skeleton, rows = Skeleton(ctx["dense"]).fill(), []
    module = skeleton.get_submodule(name.removesuffix(".weight"))
    module.register_forward_pre_hook(lambda _, args: rows.append(args[0].flatten(0, -2)))
    errors = {}
    with torch.no_grad():
        skeleton(ctx["calibration"].tokens, use_cache=False)
    for method in ("rtn", "gptq"):
        light = (await run(quantize(method=method, group_size=32), ctx))["checkpoint"]
        error = light.refs[name].load() - ctx["dense"].tensors[name]
        errors[method] = float((rows[0] @ error.T).square().sum())
    assert errors["gptq"] < 0.9 * errors["rtn"]


@pytest.mark.parametrize(("method", "kind"), [("nf4", nf4_values), ("llm.int8", int8_values)])
async def test_bitsandbytes_methods_hold_the_values_it_will_compute_with(
    method: Any, kind: Any
) -> None:
    ctx = calibrated(tiny_checkpoint())
    light = (await run(quantize(method=method), ctx))["checkpoint"]
    for linear in all_linears(ctx["checkpoint"]):
        ref = light.refs[linear.tensor]
        assert isinstance(ref, BitsAndBytes)
        assert ref.kind == method
        dense = ctx["checkpoint"].tensors[linear.tensor]
        assert torch.equal(ref.load(), kind(dense))
        assert torch.equal(ref.source.load(), dense)


@pytest.mark.parametrize("method", ["rtn", "gptq", "nf4", "llm.int8"])
async def test_pruned_weights_stay_exactly_zero(method: Any) -> None:
    thin = await run(prune(sparsity=0.5), await scored("llama"))
    light = (await run(quantize(method=method, group_size=16), thin))["checkpoint"]
    for linear in all_linears(thin["checkpoint"]):
        pruned = weight_of(thin["checkpoint"], linear) == 0
        values = weight_of(light, linear)
        assert not values[pruned].any(), linear.name
        assert values.any()


@pytest.mark.parametrize("calibrated_before", [True, False])
async def test_auto_is_gptq_where_there_is_text_and_rounding_elsewhere(
    calibrated_before: bool,
) -> None:
    ctx = calibrated(tiny_checkpoint())
    if not calibrated_before:
        ctx = {"checkpoint": ctx["checkpoint"]}
    after = await run(quantize(group_size=16), ctx)
    resolved = "gptq" if calibrated_before else "rtn"
    named = await run(quantize(group_size=16, method=resolved), ctx)
    metrics = after["history"][-1].metrics
    assert metrics["method"] == resolved
    assert ("mean_relative_error" in metrics) is calibrated_before
    assert after["checkpoint"].id == named["checkpoint"].id


async def test_gptq_without_text_is_refused_with_the_mend() -> None:
    message = r"needs 'calibration'; calibrate\(\) provides it, or use method='rtn'"
    with pytest.raises(LinkError, match=message):
        await run(quantize(method="gptq", group_size=16), {"checkpoint": tiny_checkpoint()})


@pytest.mark.parametrize("method", ["auto", "gptq", "rtn"])
async def test_a_group_size_that_does_not_divide_is_refused_as_soon_as_there_is_a_model(
    method: Any,
) -> None:
    async def hours_of_work(ctx: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("reached")

    async def give(ctx: dict[str, Any]) -> dict[str, Any]:
        checkpoint = tiny_checkpoint(hidden_size=48, num_attention_heads=4, head_dim=12)
        return {**ctx, "checkpoint": checkpoint}

    message = (
        r"layer 'model\.layers\.0\.self_attn\.q_proj': group_size 64 does not divide width 48; "
        r"sizes that do: 16, 48"
    )
    with pytest.raises(LinkError, match=message) as caught:
        await run(Chain(give, hours_of_work, quantize(method=method)))
    assert isinstance(caught.value.__cause__, SettingError)


@pytest.mark.parametrize("second", ["rtn", "nf4"])
@pytest.mark.parametrize("first", ["rtn", "nf4"])
async def test_quantising_twice_is_refused(first: Any, second: Any) -> None:
    once = await run(quantize(method=first, group_size=16), {"checkpoint": tiny_checkpoint()})
    with pytest.raises(LinkError, match=r"q_proj' is quantised already; quantise once"):
        await run(quantize(method=second, group_size=16), once)


@pytest.mark.parametrize("bits", [3, 5, 16])
def test_widths_no_format_holds_are_refused_at_once(bits: Any) -> None:
    with pytest.raises(SettingError, match=r"quantize\(bits="):
        quantize(bits=bits)


async def test_scales_are_in_the_dtype_the_model_is_stored_in() -> None:
    dense = tiny_checkpoint()
    halves = dense.evolve({n: t.bfloat16() for n, t in dense.tensors.items()})
    for method in ("rtn", "gptq"):
        light = (await run(quantize(method=method, group_size=16), calibrated(halves)))[
            "checkpoint"
        ]
        assert {ref.scales.dtype for ref in codes_of(light).values()} == {torch.bfloat16}


@pytest.mark.parametrize("method", ["rtn", "gptq"])
async def test_a_layer_that_cannot_be_solved_is_named(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise SolverError("unfit")

    names = quantize.function.__globals__
    monkeypatch.setitem(names, "factorize", refuse)
    monkeypatch.setitem(names, "QUANTIZERS", {"rtn": refuse})
    with pytest.raises(LinkError, match=r"layer 'model\.layers\.0\.\S+': unfit"):
        await run(quantize(method=method, group_size=16), calibrated(tiny_checkpoint()))
