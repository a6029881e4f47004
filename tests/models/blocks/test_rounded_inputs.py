"""Inputs are rounded as compressed-tensors rounds them, and only where that is stated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStatus
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_model, tiny_checkpoint, tiny_configs
from torch import Tensor, nn
from transformers import Qwen2MoeConfig

from birdbone.checkpoints import InMemory, Quantized
from birdbone.errors import ModelError
from birdbone.models.blocks.rounded_inputs import RoundedInputs, round_tokens, without_windows
from birdbone.models.reading.opening import as_checkpoint

KINDS = ("int8", "fp8")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def theirs(values: Tensor, kind: str, group_size: int | None = None) -> Tensor:
    """What compressed-tensors replaces the inputs of a linear by."""
    args = QuantizationArgs(
        num_bits=8,
        type="int" if kind == "int8" else "float",
        symmetric=True,
        strategy="token" if group_size is None else "group",
        group_size=group_size,
        dynamic=True,
    )
    module = nn.Linear(1, 1)
    module.quantization_status = QuantizationStatus.FROZEN
    return forward_quantize(module, values, "input", args)


@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from([(2, 3, 32), (5, 16), (1, 1, 8)]),
    dtype=st.sampled_from(DTYPES),
)
def test_groups_are_those_of_compressed_tensors(
    seed: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(shape, generator=generator) * 10).to(dtype)
    values[..., :8] = 0  # a whole group
    found = round_tokens(values, "fp8", group_size=8)
    assert torch.equal(found, theirs(values, "fp8", 8))


def rounding(kind: Any, width: int = 4) -> Quantized:
    codes = torch.ones(2, width, dtype=torch.int8)
    return Quantized(codes, torch.ones(2, 1), bits=8, input_activations=kind)


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40)),
    exponent=st.integers(-12, 3),
    dtype=st.sampled_from(DTYPES),
    is_sparse=st.booleans(),
    is_positive=st.booleans(),
)
def test_the_values_are_those_of_compressed_tensors(
    kind: Any,
    seed: int,
    shape: tuple[int, ...],
    exponent: int,
    dtype: torch.dtype,
    is_sparse: bool,
    is_positive: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 2.0**exponent
    values[..., 0] *= 100  # an outlier in every token
    if is_sparse:
        values[torch.rand(shape, generator=generator) < 0.7] = 0
    values = (values.abs() if is_positive else values).to(dtype)
    found = round_tokens(values, kind)
    assert found.dtype == dtype
    assert torch.equal(found, theirs(values, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_has_a_grid_of_its_own(kind: Any) -> None:
    values = torch.tensor([[[1.0, 0.5, 0.0]], [[1000.0, 500.0, 0.0]], [[0.0, 0.0, 0.0]]])
    found = round_tokens(values, kind)
    # The largest of a token is half a step of its grid beyond the last code, or exactly on it.
    assert torch.allclose(found, values, rtol=1 / 127)
    assert torch.equal(found[1], round_tokens(values[1:2], kind)[0])


def test_gradients_pass_unchanged() -> None:
    values = torch.randn(1, 3, 8, requires_grad=True)
    (round_tokens(values, "int8") * torch.arange(8.0)).sum().backward()
    assert torch.equal(values.grad, torch.arange(8.0).expand(1, 3, 8))


def test_a_linear_follows_the_reference_of_its_weight() -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    inputs = torch.tensor([[[1.0, 0.01, 0.3, -0.7]]])
    plain = model(inputs)
    rounded = RoundedInputs(model)
    rounded.follow("0.weight", rounding("int8"))
    first = model(inputs)
    assert torch.equal(first, nn.functional.linear(round_tokens(inputs, "int8"), model[0].weight))
    assert not torch.equal(first, plain)
    rounded.follow("0.weight", rounding("fp8"))
    second = nn.functional.linear(round_tokens(inputs, "fp8"), model[0].weight)
    assert torch.equal(model(inputs), second)
    for other in (rounding(None), InMemory(torch.ones(2, 4))):
        rounded.follow("0.weight", rounding("int8"))
        rounded.follow("0.weight", other)
        assert torch.equal(model(inputs), plain)


def test_tokens_without_an_axis_of_windows_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    RoundedInputs(model).follow("0.weight", rounding("int8"))
    with pytest.raises(ModelError, match=r"layer '0' receives .*quantize\(ignore=\.\.\.\)"):
        model(torch.ones(3, 4))


def test_layers_that_receive_such_tokens_are_known_before_work() -> None:
    found = without_windows(tiny_checkpoint("opt"))
    assert set(found) == {
        f"model.decoder.layers.{n}.{fc}" for n in range(3) for fc in ("fc1", "fc2")
    }


def test_the_expert_that_all_tokens_share_is_one_of_them() -> None:
    config = Qwen2MoeConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
    )
    found = without_windows(as_checkpoint(random_model(config)))
    assert "model.layers.0.mlp.shared_expert.up_proj" in found
    assert not any("self_attn" in name for name in found)


@pytest.mark.parametrize("arch", [arch for arch in tiny_configs if arch != "opt"])
def test_most_models_have_no_such_layers(arch: str) -> None:
    assert not [name for name in without_windows(tiny_checkpoint(arch)) if "router" not in name]
