"""Grids by name pattern: overrides, ignored linears, and patterns that match nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated
from tiny_folders import own_logits, plain_logits, written

from birdbone.checkpoints import BitsAndBytes, Quantized
from birdbone.engine import run
from birdbone.errors import LinkError, SettingError
from birdbone.links import quantize

METHODS = ["rtn", "gptq", "signround"]


async def quantised(method: Any, **settings: Any) -> Any:
    more = {"iterations": 2, "batch_size": 2} if method == "signround" else {}
    link = quantize(method=method, group_size=16, **more, **settings)
    return (await run(link, calibrated(tiny_checkpoint())))["checkpoint"]


def widths(checkpoint: Any, leaf: str) -> set[tuple[int, int]]:
    refs = [ref for name, ref in checkpoint.refs.items() if name.endswith(f"{leaf}.weight")]
    return {(ref.bits, ref.group_size) for ref in refs if isinstance(ref, Quantized)}


@pytest.mark.parametrize("method", METHODS)
async def test_overrides_set_bits_and_groups(method: Any, tmp_path: Path) -> None:
    overrides = {"*.down_proj": {"bits": 8, "group_size": 32}, "*.v_proj": {"bits": 3}}
    light = await quantised(method, overrides=overrides)
    assert widths(light, "down_proj") == {(8, 32)}
    assert widths(light, "v_proj") == {(3, 16)}
    assert widths(light, "q_proj") == {(4, 16)}  # shares its input with v_proj
    folder = written(light, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(light))


async def test_the_first_match_counts() -> None:
    overrides = {"model.layers.0.*": {"bits": 8}, "*.down_proj": {"bits": 3}}
    assert widths(await quantised("rtn", overrides=overrides), "down_proj") == {(8, 16), (3, 16)}


@pytest.mark.parametrize("method", METHODS)
async def test_ignored_linears_stay_as_they_are(method: Any) -> None:
    dense = tiny_checkpoint()
    light = await quantised(method, ignore=("*.o_proj", "model.layers.1.*"))
    assert widths(light, "o_proj") == set()
    kept = [name for name in light.refs if "layers.1." in name or name.endswith("o_proj.weight")]
    assert all(torch.equal(light.refs[name].load(), dense.refs[name].load()) for name in kept)
    assert widths(light, "q_proj") == {(4, 16)}


async def test_bitsandbytes_skips_ignored_linears() -> None:
    light = (
        await run(quantize(method="llm.int8", ignore=("*.o_proj",)), calibrated(tiny_checkpoint()))
    )["checkpoint"]
    handed = {name for name, ref in light.refs.items() if isinstance(ref, BitsAndBytes)}
    assert handed
    assert not any(name.endswith("o_proj.weight") for name in handed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ignore": ("*.nothing",)},
            r"quantize\(ignore\): pattern '\*\.nothing' matches no linear",
        ),
        ({"overrides": {"down": {"bits": 8}}}, r"quantize\(overrides\): pattern 'down' matches no"),
        ({"ignore": ("*",)}, r"leaves no linear"),
        ({"overrides": {"*.q_proj": {"group_size": 24}}}, r"q_proj.*24"),
    ],
)
async def test_patterns_that_cannot_work_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(LinkError, match=message):
        await quantised("rtn", **settings)


@pytest.mark.parametrize("override", [{"bits": 9}, {"bit": 4}])
def test_an_override_is_validated(override: Any) -> None:
    with pytest.raises(SettingError, match=r"overrides"):
        quantize(overrides={"*": override})


@pytest.mark.parametrize("settings", [{"symmetric": False}, {"grid": "q4_0"}, {"method": "nf4"}])
async def test_embeddings_beside_another_format_are_refused(settings: Any) -> None:
    with pytest.raises(LinkError, match=r"embedding_bits=8"):
        await run(quantize(embedding_bits=8, **settings), calibrated(tiny_checkpoint()))


async def test_quantize_rounds_embeddings_too(tmp_path: Path) -> None:
    light = await quantised("gptq", embedding_bits=8)
    assert light.refs["model.embed_tokens.weight"].bits == 8
    folder = written(light, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(light))
