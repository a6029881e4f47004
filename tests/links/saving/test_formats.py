"""save(format=…): what each holds, what is refused before work, and GGUF proven by llama.cpp."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from gguf import GGUFWriter
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import for_bitsandbytes, quantized
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint, safetensors_writer
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, MissingExtraError, ModelError, SettingError
from birdbone.formats import llama_cpp
from birdbone.links import load, quantize, save

DENSE = tiny_checkpoint(hidden_size=64)


def context(light: Checkpoint, dense: Checkpoint | None = None) -> dict[str, Any]:
    size = int(light.config["vocab_size"])
    return {
        "checkpoint": light,
        "dense": light if dense is None else dense,
        "heldout": tiny_windows(3, vocab=size),
    }


def names(folder: Path) -> list[str]:
    """Of everything in it."""
    return sorted(path.name for path in folder.iterdir())


def needs_llama_cpp() -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")


def made_for(form: str) -> Checkpoint:
    """A tiny model whose weights are made for a format."""
    if form == "compressed-tensors":
        return quantized(DENSE)
    return for_bitsandbytes(DENSE, "nf4") if form == "bitsandbytes" else DENSE


FORMS: Any = ("safetensors", "compressed-tensors", "bitsandbytes")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", FORMS)
async def test_a_format_that_does_not_hold_the_weights_is_refused_before_work(
    form: Any, asked: Any, tmp_path: Path
) -> None:
    if form == asked:
        return
    message = rf"save\(format='{asked}'\) does not hold this model.*which '{form}' holds; "
    with pytest.raises(LinkError, match=message) as caught:
        await run(save(path=str(tmp_path / "light"), format=asked), context(made_for(form)))
    assert isinstance(caught.value.__cause__, SettingError)
    assert not names(tmp_path)


async def test_what_is_rounded_is_not_rounded_once_more(tmp_path: Path) -> None:
    needs_llama_cpp()
    ctx = context(quantized(gguf_checkpoint("llama")))
    message = r"kind='q4_0'\) would round '.*' once more.*'compressed-tensors' holds"
    with pytest.raises(LinkError, match=message):
        await run(save(path=str(tmp_path / "light"), format="gguf", kind="q4_0"), ctx)
    assert not names(tmp_path)


@pytest.mark.parametrize("kind", [None, "q4_0"])
async def test_a_gguf_file_is_proven_by_llama_cpp(kind: Any, tmp_path: Path) -> None:
    needs_llama_cpp()
    checkpoint = gguf_checkpoint("llama")
    target = tmp_path / "light"
    chain = Chain(save(path=str(target), format="gguf", kind=kind))
    out = await run(chain, context(checkpoint))
    saved, light = out["saved"], out["saved"].figures["light"]
    records = ["README.md", "birdbone.json", "model.gguf", "proof.json", "report.html"]
    assert names(target) == records
    record = json.loads((target / "birdbone.json").read_text())
    assert len(record["samples"]) == 3
    assert all(each["dense"] and each["light"] for each in record["samples"])
    assert saved.weight_bytes == (target / "model.gguf").stat().st_size
    assert light["parameters"] == checkpoint.num_parameters
    dense = saved.figures["dense"]
    closeness = abs(math.log(light["perplexity"] / dense["perplexity"]))
    assert closeness < 1e-2 if kind is None else closeness > 0
    card = (target / "README.md").read_text()
    assert "opened by llama.cpp (the dense model by plain transformers)" in card
    assert "llama-cli -m" in card
    assert "AutoModelForCausalLM" not in card
    assert json.loads((target / "birdbone.json").read_text())["files"]["model.gguf"]["bytes"] > 0
    again = await run(load(model=str(target)))
    assert again["checkpoint"].num_parameters == checkpoint.num_parameters


async def test_codes_are_written_to_gguf_as_the_values_they_stand_for(tmp_path: Path) -> None:
    needs_llama_cpp()
    light = quantized(gguf_checkpoint("llama"))
    target = tmp_path / "light"
    await run(save(path=str(target), format="gguf", kind="f32", compare=False), context(light))
    again = (await run(load(model=str(target))))["checkpoint"]
    for name, ref in light.refs.items():
        assert torch.equal(again.tensors[name], ref.load()), name


async def test_blocks_of_ggml_are_written_as_they_are(tmp_path: Path) -> None:
    needs_llama_cpp()
    target = tmp_path / "light"
    links = (
        quantize(grid="q4_0", method="rtn"),
        save(path=str(target), format="gguf", compare=False),
    )
    out = await run(Chain(*links), context(gguf_checkpoint("llama")))
    again = (await run(load(model=str(target))))["checkpoint"]
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(again.tensors[name], out["checkpoint"].tensors[name])


def test_formats_and_types_nobody_knows_are_refused_at_once() -> None:
    with pytest.raises(SettingError, match=r"save\(format='onnx'\).*'safetensors'.*'gguf'"):
        save(path="x", format="onnx")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"save\(kind='q1_k'\)"):
        save(path="x", format="gguf", kind="q1_k")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "settings", "cause", "message"),
    [
        ("llama", {"kind": "q8_0"}, SettingError, r"of format 'gguf' alone; set both"),
        ("opt", {"format": "gguf"}, ModelError, "opt"),
        ("gpt2", {"format": "compressed-tensors"}, SettingError, "holds linears alone"),
        ("gpt2", {"format": "bitsandbytes"}, SettingError, "'safetensors' holds them"),
    ],
)
async def test_what_cannot_be_saved_is_refused_before_the_links_before_it_run(
    arch: str, settings: dict[str, Any], cause: Any, message: str, tmp_path: Path
) -> None:
    if settings.get("format") == "gguf":
        needs_llama_cpp()

    async def hours_of_work(ctx: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError("too late")

    chain = Chain(hours_of_work, save(path=str(tmp_path / "light"), **settings))
    with pytest.raises(LinkError, match=message) as caught:
        await run(chain, context(tiny_checkpoint(arch)))
    assert isinstance(caught.value.__cause__, cause)


async def test_a_consumer_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(LinkError, match=r"pip install 'birdbone\[llama\]'") as caught:
        await run(save(path=str(tmp_path / "light"), format="gguf"), context(DENSE))
    assert isinstance(caught.value.__cause__, MissingExtraError)
    assert not names(tmp_path)


@pytest.mark.parametrize(
    ("format", "message"),
    [("safetensors", "the disk is full"), ("gguf", "No space left on device")],
)
async def test_a_disk_that_fills_midway_leaves_what_was_there(
    format: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if format == "gguf":
        needs_llama_cpp()
    target = tmp_path / "light"
    target.mkdir()
    (target / "birdbone.json").write_text('{"birdbone": "0"}')
    full = OSError(errno.ENOSPC, "No space left on device")

    def write_piece(file: BinaryIO, *_: Any) -> None:
        file.write(b"half a file")
        raise full

    def write_half(writer: Any, tensor: Any, *_: Any, **__: Any) -> None:
        raise full

    monkeypatch.setattr(safetensors_writer, "_write", write_piece)
    monkeypatch.setattr(GGUFWriter, "write_tensor_data", write_half)
    with pytest.raises(LinkError, match=message):
        await run(save(path=str(target), format=format), context(gguf_checkpoint("llama")))
    assert names(tmp_path) == ["light"]
    assert names(target) == ["birdbone.json"]
