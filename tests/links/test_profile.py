"""profile: its numbers against ordinary hooks on the whole model."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated, weight_of
from torch import Tensor, nn

from birdbone.checkpoints import Checkpoint
from birdbone.engine import run
from birdbone.links import profile
from birdbone.models.blocks.linears import all_linears
from birdbone.models.blocks.skeleton import Skeleton

DENSE_ARCHS = ("llama", "qwen3", "gemma3", "opt", "gpt_neox", "phi3", "falcon")


def inputs_by_hook(checkpoint: Checkpoint, tokens: Tensor) -> dict[str, Tensor]:
    """What flows into every ``nn.Linear`` of the whole model: name to float64 ``[tokens, in]``."""
    model = Skeleton(checkpoint).fill()
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: args[0].flatten(0, -2).double()})
            )
    with torch.no_grad():
        model(tokens, use_cache=False)
    return seen


@pytest.mark.parametrize("arch", DENSE_ARCHS)
async def test_the_mean_square_of_every_input_is_what_a_hook_sees(arch: str) -> None:
    ctx = calibrated(tiny_checkpoint(arch))
    found = (await run(profile(batch_size=3), ctx))["profile"]
    seen = inputs_by_hook(ctx["checkpoint"], ctx["calibration"].tokens)
    linears = all_linears(ctx["checkpoint"])
    assert set(found.linears) == {each.name for each in linears}
    for linear in linears:
        each, rows = found.linears[linear.name], seen[linear.name]
        # float32 sums against float64 ones
        torch.testing.assert_close(
            each.mean_square.double(), rows.square().mean(0), rtol=1e-4, atol=1e-7
        )
        assert (each.num_tokens, each.shape) == (64, linear.shape)
        assert each.second_moment.shape == (linear.shape[1],)
        norm = weight_of(ctx["checkpoint"], linear).norm()
        assert each.weight_norm == pytest.approx(float(norm), rel=1e-5)


async def test_full_moments_are_the_mean_of_all_products() -> None:
    ctx = calibrated(tiny_checkpoint())
    found = (await run(profile(moments="full"), ctx))["profile"]
    for name, rows in inputs_by_hook(ctx["checkpoint"], ctx["calibration"].tokens).items():
        if name in found.linears:
            moment = found.linears[name].second_moment.double()
            torch.testing.assert_close(moment, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)


async def test_an_expert_counts_only_the_tokens_it_was_sent() -> None:
    ctx = calibrated(tiny_checkpoint("mixtral"))
    found = (await run(profile(), ctx))["profile"]
    model = Skeleton(ctx["checkpoint"]).fill()
    router = model.model.layers[0].mlp.gate
    chosen: list[Tensor] = []
    router.register_forward_hook(lambda _, args, output: chosen.append(output[2]))
    with torch.no_grad():
        model(ctx["calibration"].tokens, use_cache=False)
    for expert, count in enumerate(torch.bincount(chosen[0].flatten(), minlength=4).tolist()):
        for part in ("gate_up_proj", "down_proj"):
            name = f"model.layers.0.mlp.experts.{part}[{expert}]"
            assert found.linears[name].num_tokens == count
    assert found.linears["model.layers.0.self_attn.q_proj"].num_tokens == 64


async def test_a_blocks_influence_is_one_minus_the_cosine_of_what_enters_and_leaves() -> None:
    ctx = calibrated(tiny_checkpoint())
    found = await run(profile(batch_size=3), ctx)
    model = Skeleton(ctx["checkpoint"]).fill()
    with torch.no_grad():
        entered = [
            model.model.embed_tokens(ctx["calibration"].tokens),
            *_outputs(model, ctx["calibration"].tokens),
        ]
    for index, block in enumerate(found["profile"].blocks):
        cosine = torch.cosine_similarity(entered[index], entered[index + 1], dim=-1).mean()
        assert block.influence == pytest.approx(1 - float(cosine), abs=1e-5)
    influences = [block.influence for block in found["profile"].blocks]
    least = found["history"][-1].metrics["least_influential_block"]
    assert influences[least] == min(influences)


def _outputs(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    left: list[Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _, args, output: left.append(output))
    model(tokens, use_cache=False)
    return left


async def test_a_blocks_size_counts_all_its_tensors() -> None:
    ctx = calibrated(tiny_checkpoint("mixtral"))
    refs = ctx["checkpoint"].refs
    inside = [ref for name, ref in refs.items() if name.startswith("model.layers.1.")]
    block = (await run(profile(), ctx))["profile"].blocks[1]
    assert block.num_parameters == sum(ref.num_values for ref in inside)
    assert block.num_bytes == 4 * block.num_parameters


async def test_dead_and_outlying_input_channels_are_found() -> None:
    dense = tiny_checkpoint()
    scale = dense.tensors["model.layers.1.input_layernorm.weight"].clone()
    scale[3], scale[7] = 0.0, 1000.0
    ctx = calibrated(dense.evolve({"model.layers.1.input_layernorm.weight": scale}))
    found = await run(profile(), ctx)
    each = found["profile"].linears["model.layers.1.self_attn.k_proj"]
    assert (each.dead_channels, each.outlier_channels) == ((3,), (7,))
    metrics = found["history"][-1].metrics
    assert metrics["dead_channels"] == 3  # of q, k and v of that block
    outliers = [len(each.outlier_channels) for each in found["profile"].linears.values()]
    assert metrics["outlier_channels"] == sum(outliers) >= 3
    assert metrics["linears"] == 21


async def test_an_expert_that_saw_no_tokens_is_given_the_mean_of_its_fellows() -> None:
    ctx = {**calibrated(tiny_checkpoint("mixtral")), "calibration": tiny_windows(1, 2)}
    linears = (await run(profile(), ctx))["profile"].linears
    unseen = [name for name, each in linears.items() if each.num_tokens == 0]
    assert unseen
    for name in unseen:
        kind = name.rpartition("[")[0]
        fellows = [each for other, each in linears.items() if other.startswith(f"{kind}[")]
        total = sum(each.second_moment * each.num_tokens for each in fellows)
        expected = total / sum(each.num_tokens for each in fellows)
        torch.testing.assert_close(linears[name].second_moment, expected)


async def test_the_profile_says_what_text_it_is_of() -> None:
    found = (await run(profile(), calibrated(tiny_checkpoint())))["profile"]
    assert (found.text, found.num_tokens) == ("calibration", 64)
