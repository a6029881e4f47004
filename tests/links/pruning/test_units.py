"""prune by units: a smaller config and tensors to match, which plain transformers takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_windows
from tiny_contexts import calibrated, digests, scored
from torch import Tensor
from transformers import AutoModelForCausalLM

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError
from birdbone.links import profile, prune, quantize, save, score, validate
from birdbone.links.pruning.unit_sizes import default_multiple, units_left
from birdbone.models.blocks.empty_model import text_config
from birdbone.models.blocks.linears import all_linears
from birdbone.models.blocks.replay import capture, through_blocks
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.unit_losses import unit_losses
from birdbone.models.units.narrowing import Part, narrowing, units_of
from birdbone.models.writing.folder import write_model
from birdbone.reports.both_texts import ONE_TEXT
from birdbone.reports.result import remarks

WITH_GROUPS = ("llama", "qwen3", "gemma3", "phi3", "mixtral", "gpt_oss")
WITHOUT_GROUPS = ("gpt2", "opt", "gpt_neox", "falcon")


def logits_in_memory(checkpoint: Checkpoint, tokens: Tensor) -> Tensor:
    """What the checkpoint computes, ``[windows, length, vocab_size]``."""
    with torch.no_grad():
        found: Tensor = Skeleton(checkpoint).fill()(tokens, use_cache=False).logits
    return found


def logits_from_disk(checkpoint: Checkpoint, folder: Path, tokens: Tensor) -> Tensor:
    """What plain transformers makes of the checkpoint written to a folder."""
    write_model(checkpoint, folder, max_shard_bytes=1 << 30)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found: Tensor = model(tokens, use_cache=False).logits
    return found


LAYERS = "model.layers"
TEXT = tiny_windows(64, 16, seed=5, text="calibration")


def last_states(checkpoint: Checkpoint) -> Tensor:
    """What leaves the last block on `TEXT`."""
    skeleton = Skeleton(checkpoint)
    return torch.cat(through_blocks(skeleton, capture(skeleton, [TEXT.tokens])))


def error(found: Tensor, wanted: Tensor) -> float:
    """Squared distance."""
    return float((found - wanted).square().sum())


def silenced(checkpoint: Checkpoint, output: Part, first: int) -> Checkpoint:
    """The model whose first inputs of each block's output linear count for nothing."""
    fresh = {}
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(f".{output.tensor}"):
            fresh[name] = tensor.clone()
            fresh[name].narrow(output.axis, 0, first).zero_()
    return checkpoint.evolve(fresh)


@pytest.mark.parametrize("arch", tiny_configs)
async def test_half_the_neurons_leave_a_model_that_plainly_loads(arch: str, tmp_path: Path) -> None:
    ctx = await scored(arch)
    after = await run(prune(pattern="neurons", sparsity=0.5), ctx)
    light, tokens = after["checkpoint"], tiny_windows(2, 16, seed=9).tokens
    before, kept = after["plan"].units
    assert kept * 2 == before
    assert after["history"][-1].metrics["parameters_after"] == light.num_parameters
    assert light.num_parameters < ctx["checkpoint"].num_parameters
    from_disk = logits_from_disk(light, tmp_path, tokens)
    torch.testing.assert_close(from_disk, logits_in_memory(light, tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", WITH_GROUPS)
async def test_half_the_groups_leave_a_model_that_plainly_loads(arch: str, tmp_path: Path) -> None:
    ctx = await scored(arch)
    after = await run(prune(pattern="groups", sparsity=0.5), ctx)
    light, tokens = after["checkpoint"], tiny_windows(2, 16, seed=9).tokens
    was, now = text_config(ctx["checkpoint"]), text_config(light)
    assert (now.num_key_value_heads, now.num_attention_heads) == (1, was.num_attention_heads // 2)
    assert light.config["head_dim"] == (getattr(was, "head_dim", None) or 8)
    from_disk = logits_from_disk(light, tmp_path, tokens)
    torch.testing.assert_close(from_disk, logits_in_memory(light, tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", WITHOUT_GROUPS)
async def test_heads_whose_width_the_config_cannot_say_are_refused(arch: str) -> None:
    ctx = await scored(arch)
    with pytest.raises(LinkError, match=f"type '{arch}' cannot express fewer groups"):
        await run(prune(pattern="groups", sparsity=0.5), ctx)


LAYERED = [arch for arch in tiny_configs if arch != "llama_tied"]


@pytest.mark.parametrize("arch", LAYERED)
async def test_a_third_of_the_layers_leaves_a_model_that_plainly_loads(
    arch: str, tmp_path: Path
) -> None:
    ctx = await scored(arch)
    after = await run(prune(pattern="layers", sparsity=0.3), ctx)
    light, tokens = after["checkpoint"], tiny_windows(2, 16, seed=9).tokens
    assert after["plan"].units == (3, 2)
    assert text_config(light).num_hidden_layers == 2
    assert len(after["plan"].kept_layers) == 2
    from_disk = logits_from_disk(light, tmp_path, tokens)
    torch.testing.assert_close(from_disk, logits_in_memory(light, tokens), atol=1e-4, rtol=1e-4)


async def test_each_layer_keeps_its_own_kind_of_attention() -> None:
    ctx = await scored("gemma3")
    after = await run(prune(pattern="layers", sparsity=0.3), ctx)
    kinds = text_config(ctx["checkpoint"]).layer_types
    assert after["checkpoint"].config["layer_types"] == [
        kinds[place] for place in after["plan"].kept_layers
    ]


def idle_blocks(checkpoint: Checkpoint, *places: int) -> Checkpoint:
    """The model whose blocks in some places add nothing."""
    silent = [
        f"{LAYERS}.{place}.{name}.weight"
        for place in places
        for name in ("self_attn.o_proj", "mlp.down_proj")
    ]
    return checkpoint.evolve({n: torch.zeros_like(checkpoint.tensors[n]) for n in silent})


@pytest.mark.parametrize("planted", [0, 1, 2])
async def test_a_layer_that_does_nothing_is_the_one_that_goes(planted: int) -> None:
    ctx = await scored("llama")
    idle = idle_blocks(ctx["checkpoint"], planted)
    after = await run(prune(pattern="layers", sparsity=0.3), {**ctx, "checkpoint": idle})
    assert planted not in after["plan"].kept_layers
    tokens = tiny_windows(2, 16, seed=9).tokens
    torch.testing.assert_close(
        logits_in_memory(after["checkpoint"], tokens), logits_in_memory(idle, tokens)
    )


async def test_the_plan_counts_layers_of_the_dense_model_through_later_pruning() -> None:
    ctx = await scored("llama")
    dense = idle_blocks(ctx["checkpoint"], 0)
    ctx = {**ctx, "checkpoint": dense}
    seen: list[tuple[int, ...]] = []
    for link in (
        prune(pattern="layers", sparsity=0.3),
        prune(pattern="neurons", sparsity=0.5),
        prune(sparsity=0.0, method="wanda"),
        prune(pattern="layers", sparsity=0.5),
    ):
        ctx = await run(link, ctx)
        seen.append(ctx["plan"].kept_layers)
    assert seen[:3] == [(1, 2)] * 3
    (left,) = seen[3]
    query = f"{LAYERS}.{{}}.self_attn.q_proj.weight"
    light = ctx["checkpoint"].tensors
    assert torch.equal(light[query.format(0)], dense.tensors[query.format(left)])
    assert query.format(1) not in light


async def test_the_block_before_a_gap_is_refitted_to_bridge_it() -> None:
    ctx = await scored("llama")
    faint = f"{LAYERS}.1.mlp.down_proj.weight"  # so that it is the second block that goes
    dense = ctx["checkpoint"]
    dense = dense.evolve({faint: dense.tensors[faint] / 4})
    ctx = {**ctx, "checkpoint": dense, "calibration": TEXT}
    after = await run(prune(pattern="layers", sparsity=0.3, matching=0.0), ctx)
    light, bridged = after["checkpoint"], f"{LAYERS}.0.mlp.down_proj"
    assert after["plan"].kept_layers == (0, 2)
    assert after["plan"].linears.keys() == {bridged}
    as_it_was = light.evolve({f"{bridged}.weight": dense.tensors[f"{bridged}.weight"]})
    wanted = last_states(dense)
    assert error(last_states(light), wanted) < 0.9 * error(last_states(as_it_was), wanted)
    mended = await run(prune(pattern="layers", sparsity=0.3), ctx)
    assert mended["plan"].linears.keys() == {bridged, f"{LAYERS}.1.mlp.down_proj"}
    assert error(last_states(mended["checkpoint"]), wanted) < error(last_states(light), wanted)


async def test_the_last_block_left_gives_what_those_after_it_gave() -> None:
    ctx = await scored("llama")
    quiet = {
        name: tensor / 8
        for name, tensor in ctx["checkpoint"].tensors.items()
        if name.startswith(f"{LAYERS}.2.") and name.endswith(("o_proj.weight", "down_proj.weight"))
    }
    dense = ctx["checkpoint"].evolve(quiet)
    after = await run(prune(pattern="layers", sparsity=0.3), {**ctx, "checkpoint": dense})
    assert after["plan"].kept_layers == (0, 1)
    assert after["plan"].linears.keys() == {f"{LAYERS}.1.mlp.down_proj"}


@pytest.mark.parametrize("arch", ["mixtral", "gpt_oss"])
async def test_half_the_experts_leave_a_model_that_plainly_loads(arch: str, tmp_path: Path) -> None:
    ctx = await scored(arch)
    after = await run(prune(pattern="experts", sparsity=0.5), ctx)
    light, tokens = after["checkpoint"], tiny_windows(2, 16, seed=9).tokens
    assert (after["plan"].units, light.config["num_local_experts"]) == ((4, 2), 2)
    from_disk = logits_from_disk(light, tmp_path, tokens)
    torch.testing.assert_close(from_disk, logits_in_memory(light, tokens), atol=1e-4, rtol=1e-4)


async def test_experts_that_say_little_go() -> None:
    ctx = await scored("mixtral")
    faint = [1, 2]
    fresh = {}
    for name, tensor in ctx["checkpoint"].tensors.items():
        if name.endswith("experts.down_proj"):
            fresh[name] = tensor.clone()
            fresh[name][faint] /= 100
    dense = ctx["checkpoint"].evolve(fresh)
    after = await run(prune(pattern="experts", sparsity=0.5), {**ctx, "checkpoint": dense})
    for part in ("experts.gate_up_proj", "experts.down_proj", "gate.weight"):
        for block in range(3):
            name = f"{LAYERS}.{block}.mlp.{part}"
            kept = dense.tensors[name][[0, 3]]
            assert torch.equal(after["checkpoint"].tensors[name], kept)


async def test_fewer_experts_than_a_token_goes_to_are_refused() -> None:
    ctx = await scored("mixtral")
    with pytest.raises(LinkError, match=r"every token is routed to 2.*possible one is 2"):
        await run(prune(pattern="experts", sparsity=0.75), ctx)


async def test_a_model_without_experts_is_refused() -> None:
    ctx = await scored("llama")
    with pytest.raises(LinkError, match=r"cannot express fewer experts .* it has no key"):
        await run(prune(pattern="experts"), ctx)


async def test_neurons_and_groups_then_quantised_and_judged() -> None:
    ctx = await scored("llama")
    chain = Chain(
        prune(pattern="neurons", sparsity=0.5),
        prune(pattern="groups", sparsity=0.5),
        quantize(bits=8, group_size=16),
        validate(),
    )
    before = digests(ctx["checkpoint"])
    after = await run(chain, ctx)
    assert after["verdict"].heldout.light.value > 0
    assert {linear.shape for linear in all_linears(after["checkpoint"])} == {
        (16, 32),
        (8, 32),
        (32, 16),
        (32, 32),
    }
    assert digests(ctx["checkpoint"]) == before
    assert after["dense"] is ctx["dense"]


@pytest.mark.parametrize("choice", ["loss", "error"])
@pytest.mark.parametrize("arch", tiny_configs)
async def test_neurons_that_give_nothing_go_without_a_trace(arch: str, choice: Any) -> None:
    ctx = await scored(arch)
    dense = ctx["checkpoint"]
    change = narrowing(dense, "neurons", units_of(dense, "neurons") // 2)
    idle = silenced(dense, change.output, change.before // 2)
    chain = prune(pattern="neurons", sparsity=0.5, matching=0.0, choice=choice)
    light = (await run(chain, {**ctx, "checkpoint": idle}))["checkpoint"]
    tokens = tiny_windows(2, 16, seed=9).tokens
    torch.testing.assert_close(
        logits_in_memory(light, tokens), logits_in_memory(idle, tokens), atol=1e-4, rtol=1e-3
    )


async def test_neurons_that_the_loss_needs_most_stay() -> None:
    ctx = await scored("llama")
    light = (await run(prune(pattern="neurons", sparsity=0.5), ctx))["checkpoint"]
    for block in ("model.layers.0.mlp", "model.layers.2.mlp"):
        losses = unit_losses(
            ctx["checkpoint"],
            ctx["calibration"].tokens,
            {f"{block}.down_proj": 1},
            lambda done, total: None,
        )[f"{block}.down_proj"]
        most = losses.argsort(descending=True)[:32].sort().values
        name = f"{block}.up_proj.weight"
        assert torch.equal(light.tensors[name], ctx["checkpoint"].tensors[name][most])


@pytest.mark.parametrize(
    ("arch", "choice", "method"),
    [("llama", "loss", "fisher"), ("llama", "error", "obs"), ("mixtral", "loss", "obs")],
)
async def test_the_plan_says_how_neurons_were_chosen(arch: str, choice: Any, method: str) -> None:
    chain = prune(pattern="neurons", sparsity=0.5, choice=choice)
    assert (await run(chain, await scored(arch)))["plan"].method == method


@pytest.mark.parametrize("arch", WITH_GROUPS)
async def test_groups_that_give_nothing_go_without_a_trace(arch: str) -> None:
    ctx = await scored(arch)
    change = narrowing(ctx["checkpoint"], "groups", 1)
    idle = silenced(ctx["checkpoint"], change.output, change.output.size // 2)
    chain = prune(pattern="groups", sparsity=0.5, matching=0.0)
    light = (await run(chain, {**ctx, "checkpoint": idle}))["checkpoint"]
    tokens = tiny_windows(2, 16, seed=9).tokens
    torch.testing.assert_close(
        logits_in_memory(light, tokens), logits_in_memory(idle, tokens), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("kind", ["neurons", "groups"])
async def test_later_blocks_make_up_for_what_earlier_ones_lost(kind: str) -> None:
    ctx = {**await scored("llama"), "calibration": TEXT}
    matched, alone = [
        await run(prune(pattern=kind, sparsity=0.5, matching=share), ctx) for share in (1.0, 0.0)
    ]
    wanted = last_states(ctx["checkpoint"])
    far, near = (error(last_states(each["checkpoint"]), wanted) for each in (alone, matched))
    assert near < 0.9 * far


async def test_behind_groups_the_neurons_output_is_refitted() -> None:
    ctx = await scored("llama")
    after = await run(prune(pattern="groups", sparsity=0.5), ctx)
    refitted = {name.split(".", 3)[3] for name in after["plan"].linears}
    assert refitted == {"self_attn.o_proj", "mlp.down_proj"}
    unmatched = await run(prune(pattern="groups", sparsity=0.5, matching=0.0), ctx)
    assert {name.split(".", 3)[3] for name in unmatched["plan"].linears} == {"self_attn.o_proj"}


async def test_the_plan_names_every_output_linear_and_its_error() -> None:
    ctx = await scored("llama")
    after = await run(prune(pattern="neurons", sparsity=0.25), ctx)
    plan = after["plan"]
    assert plan.linears.keys() == {f"model.layers.{i}.mlp.down_proj" for i in range(3)}
    assert plan.units == (64, 48)
    assert all(0 < each.relative_error < 1 for each in plan.linears.values())


@pytest.mark.parametrize("setting", [{"method": "scores"}, {"allocation": "load"}])
async def test_masks_by_scores_of_another_size_are_refused(setting: dict[str, Any]) -> None:
    ctx = await scored("llama")
    after = await run(prune(pattern="neurons", sparsity=0.5), ctx)
    with pytest.raises(LinkError, match="scores were computed on a model of other sizes"):
        await run(prune(sparsity=0.5, **setting), after)
    again = Chain(profile(), score(per_weight=True), prune(sparsity=0.5, **setting))
    assert (await run(again, after))["plan"].pattern == "unstructured"


@pytest.mark.slow
async def test_parameters_and_bytes_of_the_saved_folder_go_down_together(tmp_path: Path) -> None:
    ctx = await scored("llama")
    out = await run(
        Chain(prune(pattern="neurons", sparsity=0.5), save(path=str(tmp_path / "light"))), ctx
    )
    light, dense = out["saved"].figures["light"], out["saved"].figures["dense"]
    gone = 3 * 3 * 32 * 32
    assert dense["parameters"] - light["parameters"] == gone
    assert dense["weight_bytes"] - light["weight_bytes"] == pytest.approx(4 * gone, rel=0.02)
    assert light["nonzero"] == light["parameters"]
    assert light["prefill_tokens_per_second"] > 0
    assert remarks(out["saved"].figures, out["history"], "tiny") == [ONE_TEXT]


async def test_quantised_layers_are_refused() -> None:
    quantised = await run(quantize(bits=8, group_size=16), await scored("llama"))
    with pytest.raises(LinkError, match="put prune before quantize"):
        await run(prune(pattern="neurons"), quantised)


@pytest.mark.parametrize("setting", [{"method": "wanda"}, {"allocation": "load"}, {"polish": 3}])
async def test_settings_of_masks_are_refused(setting: dict[str, Any]) -> None:
    ctx = await scored("llama")
    with pytest.raises(LinkError, match=f"{next(iter(setting))}.* is for masks"):
        await run(prune(pattern="neurons", sparsity=0.5, **setting), ctx)


async def test_a_size_transformers_refuses_is_refused_with_the_nearest_it_takes() -> None:
    checkpoint = tiny_checkpoint(
        num_attention_heads=8, num_key_value_heads=4, head_dim=4, hidden_size=32
    )
    with pytest.raises(LinkError, match=r"leave 3 of 4 groups.*nearest possible one is 2"):
        await run(
            prune(pattern="groups", sparsity=0.25),
            {
                **calibrated(checkpoint),
                **(
                    {k: v for k, v in (await scored("llama")).items() if k in ("profile", "scores")}
                ),
            },
        )


def test_sizes_are_multiples_and_the_nearest_counts() -> None:
    assert units_left("neurons", 1536, 0.2, None) == 1216
    assert units_left("neurons", 1536, 0.2, 1) == 1229
    assert units_left("groups", 8, 0.25, None) == 6


@pytest.mark.parametrize(
    ("before", "sparsity", "multiple", "match"),
    [
        (1536, 0.01, None, r"1536 of 1536 .* of 64, and the nearest .* is 1472.* to 0\.04167"),
        (1536, 0.99, None, r"0 of 1536 neurons would be left.*nearest possible one is 64"),
        (64, 0.5, 64, "no smaller multiple of 64 is left"),
    ],
)
def test_a_share_that_changes_nothing_or_leaves_none_is_refused(
    before: int, sparsity: float, multiple: int | None, match: str
) -> None:
    with pytest.raises(SettingError, match=match):
        units_left("neurons", before, sparsity, multiple)


def test_narrow_models_are_cut_in_finer_steps() -> None:
    assert [default_multiple("neurons", size) for size in (8192, 512, 511, 64, 8, 4)] == [
        64,
        64,
        32,
        8,
        1,
        1,
    ]
