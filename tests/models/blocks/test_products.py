"""Passes that choose weights may multiply in bfloat16; nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated

from birdbone.checkpoints.placement import Placement, Precision, placed
from birdbone.engine import Chain, run
from birdbone.links import quantize, validate
from birdbone.models.blocks import products
from birdbone.models.blocks.linears import find_linears
from birdbone.models.blocks.products import has_fast_bfloat16, product_dtype
from birdbone.models.blocks.replay import capture
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.fisher import output_fisher
from birdbone.models.passes.inputs import sum_inputs
from birdbone.models.sampling.self_text import sampling_dtype
from birdbone.solvers.gram import GramAccumulator


@contextmanager
def computing(precision: Precision) -> Iterator[None]:
    with placed(Placement(precision=precision)):
        yield


@pytest.mark.parametrize("fast", [False, True])
def test_choice(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "has_fast_bfloat16", lambda: fast)
    cpu = torch.device("cpu")
    assert product_dtype(cpu) == (torch.bfloat16 if fast else None)
    for precision, wanted in (("float32", None), ("bfloat16", torch.bfloat16)):
        with computing(precision):  # type: ignore[arg-type]
            assert product_dtype(cpu) == wanted
            assert product_dtype(torch.device("cuda")) is None


@pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "bf16", "avx512_f"])
def test_processor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the fixture that makes every processor the same
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True, "avx2": True})
    assert has_fast_bfloat16() == (name != "avx512_f")


def test_sums_are_not_rounded() -> None:
    """The first inputs of a block are no products: their Gram matrix is the same to the bit."""
    exact, outputs = _summed("float32")
    rounded, others = _summed("bfloat16")
    assert rounded[0].dtype == torch.float32
    assert torch.equal(rounded[0], exact[0])
    for one, other in zip(exact[1:], rounded[1:], strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * float(one.abs().max()))
    assert all(each.dtype == torch.float32 for each in others)
    assert not torch.equal(outputs[0], others[0])
    torch.testing.assert_close(outputs[0], others[0], rtol=0.02, atol=0.1)


def _summed(precision: Precision) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Gram matrices of the first block, and its outputs."""
    skeleton = Skeleton(tiny_checkpoint("llama"))
    batches = capture(skeleton, tiny_windows(4, 16).tokens.split(2))
    hidden, calls = [each.hidden for each in batches], [each.calls[0] for each in batches]
    with skeleton.block(0) as block, computing(precision):
        prefix = f"{skeleton.path}.0."
        linears = find_linears(block, prefix)
        groups, outputs = sum_inputs(block, prefix, linears, hidden, calls, GramAccumulator)
    return [group.sum.gram().matrix for group in groups], outputs


def test_sampling() -> None:
    assert sampling_dtype() == torch.float32
    with computing("bfloat16"):
        assert sampling_dtype() == torch.bfloat16


def test_gradients() -> None:
    checkpoint, tokens = tiny_checkpoint("llama"), tiny_windows(2, 16).tokens
    found = []
    for precision in ("float32", "bfloat16"):
        with computing(precision):  # type: ignore[arg-type]
            found.append(output_fisher(checkpoint, tokens, lambda done, total: None))
    for name, exact in found[0].outputs.items():
        rounded = found[1].outputs[name]
        assert not torch.equal(exact, rounded)
        assert float((rounded - exact).norm()) < 0.1 * float(exact.norm()), name


@pytest.mark.filterwarnings("ignore:validate. the rises on held-out text and on text")
async def test_judgement_is_exact() -> None:
    """Integers may differ; the perplexity of the original does not."""
    chain = Chain(quantize(group_size=16), validate())
    verdicts, weights = [], []
    for precision in ("float32", "bfloat16"):
        given: dict[str, Any] = calibrated(tiny_checkpoint("llama"))
        ctx = await run(chain, {**given, "placement": Placement(precision=precision)})  # type: ignore[arg-type]
        verdicts.append(ctx["verdict"])
        weights.append(ctx["checkpoint"].tensors["model.layers.2.mlp.down_proj.weight"])
    exact, rounded = verdicts
    assert exact.worse.dense == rounded.worse.dense
    assert not torch.equal(*weights)
