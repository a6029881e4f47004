"""Embedding and head as blocks of ggml: what is stored, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.checkpoints import GgmlBlocks
from birdbone.engine import run
from birdbone.errors import LinkError
from birdbone.links import quantize

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gemma3"])
async def test_rounded(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    more = {"head_grid": "q8_0"} if arch == "llama" else {}
    link = quantize(method="rtn", grid="q4_0", embedding_grid="iq4_nl", **more)
    light = (await run(link, calibrated(checkpoint)))["checkpoint"]
    kinds = {n: ref.kind for n, ref in light.refs.items() if isinstance(ref, GgmlBlocks)}
    assert kinds[_EMBEDDING] == "iq4_nl"
    assert kinds.get(_HEAD) == more.get("head_grid")
    given = checkpoint.refs[_EMBEDDING].load().float()
    error = (light.refs[_EMBEDDING].load() - given).norm() / given.norm()
    assert 0.01 < error < 0.12


async def test_linears_by_pattern() -> None:
    overrides = {"*.down_proj": {"grid": "q8_0"}, "*.0.*": {"grid": "q5_0"}}
    link = quantize(method="rtn", grid="iq4_nl", overrides=overrides)
    light = (await run(link, calibrated(tiny_checkpoint("llama"))))["checkpoint"]
    kinds = {n: ref.kind for n, ref in light.refs.items() if isinstance(ref, GgmlBlocks)}
    assert kinds["model.layers.0.mlp.down_proj.weight"] == "q8_0"
    assert kinds["model.layers.0.mlp.up_proj.weight"] == "q5_0"
    assert kinds["model.layers.1.mlp.up_proj.weight"] == "iq4_nl"
    assert not torch.equal(light.refs[_EMBEDDING].load(), torch.zeros(1))
    assert not isinstance(light.refs[_EMBEDDING], GgmlBlocks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_grid": "q4_0"}, "is stored beside linears on a grid of ggml; set grid too"),
        ({"grid": "q4_0", "head_grid": "q8_0"}, "no such tensor, its head is tied to the embedd"),
        ({"overrides": {"*": {"grid": "q4_0"}}}, "set grid='q4_0' too, or give bits"),
        ({"grid": "q4_0", "overrides": {"*": {"bits": 8}}}, "is given bits, which a format of"),
    ],
)
async def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LinkError, match=message):
        await run(quantize(method="rtn", **settings), calibrated(tiny_checkpoint("llama_tied")))


async def test_width_without_blocks() -> None:
    checkpoint = tiny_checkpoint("llama_tied", hidden_size=40, num_attention_heads=4, head_dim=8)
    ignored = ("*_proj",)
    link = quantize(method="rtn", grid="q4_0", embedding_grid="q8_0", ignore=ignored)
    with pytest.raises(LinkError, match=r"tensor 'model.embed_tokens.weight': group_size 32 does"):
        await run(link, calibrated(checkpoint))
