"""quantize: codes on the grid asked for, zeros kept, and a plain word about what is left alone."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_model, tiny_checkpoint, tiny_configs, tiny_windows
from tiny_contexts import calibrated, codes_of, scored, weight_of
from tiny_folders import own_logits, plain_logits
from transformers import AutoModelForCausalLM
from zoo.configs import zoo_config

from birdbone.checkpoints import BitsAndBytes, Checkpoint, Coded, GgmlBlocks, Quantized
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError, SolverError
from birdbone.links import profile, prune, quantize, score
from birdbone.links.quantizing import solve as rounding
from birdbone.links.quantizing import uncalibrated
from birdbone.models.blocks.linears import all_linears
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.codecs.bitsandbytes import int8_values, nf4_values
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.writing.folder import write_model
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

WITH_EXPERTS = ("mixtral", "gpt_oss")
# Falcon's linears have a forward of their own and stay dense.
PLAIN = tuple(arch for arch in tiny_configs if arch not in (*WITH_EXPERTS, "gpt2", "falcon"))
# What makes a method fit widths that 64 does not divide.
FITTING: dict[str, Any] = {"rtn": {"group_size": 16}, "gptq": {"group_size": 16}}


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


@pytest.mark.parametrize("method", ["rtn", "llm.int8"])
async def test_linears_whose_weight_is_read_at_load_are_left_to_bitsandbytes(method: Any) -> None:
    if method == "llm.int8":
        pytest.importorskip("bitsandbytes")
    ctx = calibrated(as_checkpoint(random_model(zoo_config("nanochat")), source="tiny/nanochat"))
    left = pytest.warns(UserWarning, match="does not quantise 2 tensors, such as .*o_proj")
    with left if method == "rtn" else nullcontext():
        light = (await run(quantize(method=method, **FITTING.get(method, {})), ctx))["checkpoint"]
    coded = {name for name, ref in light.refs.items() if isinstance(ref, Coded)}
    every = {each.tensor for each in all_linears(ctx["checkpoint"])}
    assert every - coded == ({n for n in every if "o_proj" in n} if method == "rtn" else set())


async def test_a_class_that_reads_every_weight_at_load_is_refused_with_the_reason() -> None:
    model = random_model(zoo_config("recurrent_gemma"))
    ctx = calibrated(as_checkpoint(model, source="tiny/recurrent"))
    with pytest.raises(LinkError, match=r"whose weight transformers reads .*use method='nf4'"):
        await run(quantize(group_size="auto"), ctx)


@pytest.mark.parametrize(
    ("arch", "method"),
    [
        *(("gpt_oss", method) for method in ("rtn", "gptq", "nf4", "llm.int8")),
        *(("mixtral", method) for method in ("nf4", "llm.int8")),
    ],
)
async def test_experts_no_format_holds_are_left_alone_with_a_warning(
    arch: str, method: Any
) -> None:
    ctx = calibrated(tiny_checkpoint(arch, hidden_size=64, head_dim=16))
    nf4_values(torch.ones(32, 64))  # bitsandbytes' import has warnings of its own
    message = r"quantize does not quantise \d+ tensors, such as '.*experts\..*'"
    with pytest.warns(UserWarning, match=message):
        light = (await run(quantize(method=method, **FITTING.get(method, {})), ctx))["checkpoint"]
    changed = {n for n, ref in light.refs.items() if ref is not ctx["checkpoint"].refs[n]}
    assert changed == {each.tensor for each in all_linears(light) if each.plain}
    assert not any("expert" in name or "router" in name for name in changed)


@pytest.mark.parametrize("method", ["auto", "rtn", "nf4"])
async def test_a_model_of_conv1d_alone_is_refused(method: Any) -> None:
    message = r"no linear of 'tiny/gpt2' can be stored.*transformer\.h\.0\.attn\.c_attn"
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


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("nf4", nf4_values),
        ("nf4.single", partial(nf4_values, double=False)),
        ("llm.int8", int8_values),
    ],
)
async def test_bitsandbytes_methods_hold_the_values_it_will_compute_with(
    method: Any, kind: Any
) -> None:
    ctx = calibrated(tiny_checkpoint(hidden_size=64))
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
    chain = Chain(profile(), score(), prune(sparsity=0.5))
    thin = await run(chain, calibrated(tiny_checkpoint(hidden_size=64)))
    light = (await run(quantize(method=method, **FITTING.get(method, {})), thin))["checkpoint"]
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
    resolved = "gptq" if calibrated_before else "rtn"
    warned = nullcontext() if calibrated_before else pytest.warns(match="rounds to nearest, since")
    with warned:
        after = await run(quantize(group_size=16), ctx)
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
    dense = tiny_checkpoint(hidden_size=64)
    once = await run(quantize(method=first, **FITTING.get(first, {})), {"checkpoint": dense})
    with pytest.raises(LinkError, match=r"q_proj' is quantised already; quantise once"):
        await run(quantize(method=second, **FITTING.get(second, {})), once)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
async def test_group_sizes_may_be_chosen_for_each_width(method: Any, tmp_path: Path) -> None:
    dense = tiny_checkpoint(hidden_size=128, intermediate_size=96, num_attention_heads=8)
    light = (await run(quantize(method=method, group_size="auto"), calibrated(dense)))["checkpoint"]
    for name, ref in codes_of(light).items():
        assert ref.group_size == (32 if "down_proj" in name else 128)
    write_model(light, tmp_path, max_shard_bytes=1 << 30)
    again = open_checkpoint(find_model(str(tmp_path)), dequantize=False)
    assert again.id == light.id
    assert torch.equal(plain_logits(tmp_path), own_logits(light))


async def test_shapes_bitsandbytes_computes_wrongly_are_refused() -> None:
    message = r"q_proj': nf4 cannot hold shape \[32, 32\].*use method='llm.int8'"
    with pytest.raises(LinkError, match=message) as caught:
        await run(quantize(method="nf4"), {"checkpoint": tiny_checkpoint()})
    assert isinstance(caught.value.__cause__, SettingError)


@pytest.mark.parametrize("bits", [1, 9, 16])
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

    monkeypatch.setattr(rounding, "factorize", refuse)
    monkeypatch.setattr(uncalibrated, "quantize_round_to_nearest", refuse)
    with pytest.raises(LinkError, match=r"layer 'model\.layers\.0\.\S+': unfit"):
        await run(quantize(method=method, group_size=16), calibrated(tiny_checkpoint()))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group_size", [16, None])
async def test_every_width_loads_plainly_and_exactly(
    bits: int, group_size: int | None, tmp_path: Path
) -> None:
    after = await run(quantize(bits=bits, group_size=group_size), calibrated(tiny_checkpoint()))
    light: Checkpoint = after["checkpoint"]
    write_model(light, tmp_path, max_shard_bytes=1 << 30)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model(torch.tensor([[1, 2, 3]]))  # the first forward unpacks
    for name, ref in codes_of(light).items():
        assert torch.equal(model.get_parameter(name), ref.values(torch.float32))


@pytest.mark.parametrize("method", ["gptq", "rtn"])
async def test_what_nothing_packs_is_stored_as_values_with_a_warning(method: Any) -> None:
    asked = quantize(method=method, group_size=16, symmetric=False)
    message = r"stores dequantised values: no format .* packs"
    with pytest.warns(UserWarning, match=message):
        after = await run(asked, calibrated(tiny_checkpoint()))
    light: Checkpoint = after["checkpoint"]
    assert not codes_of(light)
    for linear in all_linears(light):
        groups = weight_of(light, linear).unflatten(1, (-1, 16)).flatten(0, 1)
        steps = (groups / groups.abs().amax(1, keepdim=True)).round(decimals=5)
        assert 2 < max(len(each.unique()) for each in steps) <= 16


@pytest.mark.parametrize("grid", ["q4_0", "q5_0", "q8_0"])
@pytest.mark.parametrize("method", ["gptq", "rtn"])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
async def test_codes_on_a_grid_of_ggml_are_its_blocks(arch: str, method: Any, grid: Any) -> None:
    ctx = calibrated(tiny_checkpoint(arch))
    after = await run(quantize(method=method, grid=grid), ctx)
    light: Checkpoint = after["checkpoint"]
    bits = {"q4_0": 4.5, "q5_0": 5.5, "q8_0": 8.5}[grid]
    for linear in all_linears(light):
        ref = light.refs[linear.tensor]
        assert isinstance(ref, GgmlBlocks)
        assert (ref.kind, ref.shape) == (grid, ctx["checkpoint"].refs[linear.tensor].shape)
        assert ref.num_bytes * 8 == ref.num_values * bits
        given = weight_of(ctx["checkpoint"], linear)
        error = (weight_of(light, linear) - given).norm() / given.norm()
        assert 0 < error < {"q4_0": 0.25, "q5_0": 0.12, "q8_0": 0.02}[grid]
    with pytest.raises(LinkError, match="is quantised already; quantise once"):
        await run(quantize(grid=grid), after)


@pytest.mark.parametrize("method", ["gptq", "rtn"])
async def test_widths_that_super_blocks_do_not_divide_take_q5_0(method: Any) -> None:
    ctx = calibrated(tiny_checkpoint(intermediate_size=256))
    with pytest.warns(UserWarning, match=r"uses q5_0 for 18 linears, such as .*q_proj': .* of 256"):
        after = await run(quantize(method=method, grid="q4_k"), ctx)
    kinds = {name: ref.kind for name, ref in after["checkpoint"].refs.items() if is_blocks(ref)}
    assert kinds["model.layers.1.mlp.down_proj.weight"] == "q4_k"
    assert kinds["model.layers.1.mlp.up_proj.weight"] == "q5_0"
    assert len(kinds) == 21


def is_blocks(ref: object) -> bool:
    return isinstance(ref, GgmlBlocks)


async def test_matching_answers_for_what_earlier_blocks_changed() -> None:
    ctx = calibrated(tiny_checkpoint())
    alone, matched = [
        (await run(quantize(bits=2, group_size=16, matching=share), ctx))["checkpoint"]
        for share in (0.0, 1.0)
    ]
    first = "model.layers.0.self_attn.q_proj.weight"
    later = "model.layers.2.self_attn.q_proj.weight"
    assert torch.equal(alone.tensors[first], matched.tensors[first])
    assert not torch.equal(alone.tensors[later], matched.tensors[later])


async def test_signround_goes_on_from_gptq_and_is_never_worse_on_windows_kept_out() -> None:
    ctx = calibrated(tiny_checkpoint())
    asked = {"bits": 2, "group_size": 16, "method": "signround", "batch_size": 1}
    after = await run(quantize(**asked, iterations=100), ctx)
    metrics = after["history"][-1].metrics
    assert metrics["block_loss_after"] <= metrics["block_loss_before"]
    assert metrics["codes_changed"] > 0
    solved = await run(quantize(**{**asked, "method": "gptq"}), ctx)
    mine, theirs = (codes_of(each["checkpoint"]) for each in (after, solved))
    assert mine.keys() == theirs.keys()
    assert any(not torch.equal(mine[name].codes, theirs[name].codes) for name in mine)


async def test_signround_on_what_nothing_packs_is_refused_at_once() -> None:
    message = r"signround'\) needs integers that can be packed; set symmetric=True"
    with pytest.raises(LinkError, match=message):
        await run(quantize(method="signround", symmetric=False), calibrated(tiny_checkpoint()))


@pytest.mark.parametrize("method", ["gptq", "rtn"])
async def test_experts_on_a_grid_of_ggml_are_stored_as_values_with_a_warning(method: Any) -> None:
    ctx = calibrated(tiny_checkpoint("mixtral"))
    with pytest.warns(
        UserWarning, match=r"stores dequantised values for 6 tensors of experts, such as"
    ):
        after = await run(quantize(method=method, grid="q4_0"), ctx)
    light: Checkpoint = after["checkpoint"]
    for linear in all_linears(light):
        assert is_blocks(light.refs[linear.tensor]) == (linear.expert is None)
        groups = weight_of(light, linear).unflatten(1, (-1, 32)).flatten(0, 1)
        assert max(len(group.unique()) for group in groups) <= 16, linear.name
        assert not torch.equal(weight_of(light, linear), weight_of(ctx["checkpoint"], linear))


async def test_experts_that_saw_few_tokens_are_topped_up_and_counted() -> None:
    checkpoint = tiny_checkpoint("mixtral")
    few = {"checkpoint": checkpoint, "calibration": tiny_windows(1, 8)}
    with pytest.warns(UserWarning, match="stores dequantised values"):
        after = await run(quantize(group_size=16, symmetric=False), few)
    experts = [each for each in all_linears(checkpoint) if each.expert is not None]
    assert after["history"][-1].metrics["experts_topped_up"] == len(experts) > 0


@pytest.mark.parametrize(("damping", "raised"), [(1e-9, True), (0.01, False)])
@pytest.mark.parametrize(
    "step", [partial(quantize, group_size=16), partial(prune, method="sparsegpt")]
)
async def test_a_damping_that_had_to_be_raised_is_counted(
    step: Any, damping: float, raised: bool
) -> None:
    ctx = {**await scored("llama"), "calibration": tiny_windows(1, 8)}  # fewer tokens than inputs
    metrics = (await run(step(damping=damping), ctx))["history"][-1].metrics
    assert (metrics["dampings_raised"] > 0) is raised


async def test_matching_is_half_where_none_is_given() -> None:
    ctx = calibrated(tiny_checkpoint())
    default, said, none = [
        (await run(quantize(group_size=16, **given), ctx))["checkpoint"]
        for given in ({}, {"matching": 0.5}, {"matching": 0.0})
    ]
    assert default.id == said.id
    assert default.id != none.id
