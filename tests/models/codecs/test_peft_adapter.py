"""The correction beside the weights: plain PEFT puts it on, and the outputs come nearer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny import tiny_checkpoint
from tiny_contexts import calibrated
from tiny_folders import quantized, written
from tiny_gguf import gguf_checkpoint
from torch import Tensor
from transformers import AutoModelForCausalLM

from birdbone.checkpoints import Checkpoint
from birdbone.engine import run
from birdbone.errors import MissingExtraError
from birdbone.links import load, quantize
from birdbone.models.blocks.linears import all_linears
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.codecs import peft_adapter
from birdbone.models.codecs.peft_adapter import ADAPTER_FILES, FOLDER, adapter_files, has_adapter
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import load_tokenizer
from birdbone.models.writing.folder import write_model

# PEFT asks a model about a name that transformers means to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(tokens).logits
    return found


def drawn(checkpoint: Checkpoint, rank: int) -> dict[Any, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return {
        linear: (
            torch.randn(linear.shape[0], rank, generator=draw) / 10,
            torch.randn(rank, linear.shape[1], generator=draw) / 10,
        )
        for linear in all_linears(checkpoint)
    }


@pytest.mark.parametrize("arch", ["llama", "opt", "gpt_neox"])
def test_peft_adds_exactly_the_correction_to_each_linear(arch: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(arch)
    factors = drawn(checkpoint, 3)
    files = adapter_files(factors, rank=3, dtype=torch.float32)
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    plain = Skeleton(checkpoint).fill()
    merged = PeftModel.from_pretrained(plain, tmp_path / FOLDER).merge_and_unload()
    for linear, (left, right) in factors.items():
        expected = checkpoint.tensors[linear.tensor] + left @ right
        torch.testing.assert_close(merged.get_parameter(linear.tensor), expected)


def test_the_same_factors_give_the_same_bytes() -> None:
    checkpoint = tiny_checkpoint()
    factors = drawn(checkpoint, 2)
    backwards = dict(reversed(factors.items()))
    first, again = [
        adapter_files(each, rank=2, dtype=torch.bfloat16) for each in (factors, backwards)
    ]
    assert first == again


async def test_a_saved_folder_loads_without_and_comes_nearer_with_it(tmp_path: Path) -> None:
    ctx = calibrated(tiny_checkpoint(), num=16, length=32)
    light = (await run(quantize(bits=2, group_size=16, matching=0.0, rank=8), ctx))["checkpoint"]
    write_model(light, tmp_path, max_shard_bytes=1 << 30)
    tokens = ctx["calibration"].tokens
    dense = logits(Skeleton(ctx["dense"]).fill(), tokens)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    before = logits(plain, tokens)
    torch.testing.assert_close(before, logits(Skeleton(light).fill(), tokens))
    after = logits(PeftModel.from_pretrained(plain, tmp_path / FOLDER), tokens)
    assert float((after - dense).square().mean()) < 0.6 * float((before - dense).square().mean())


@pytest.fixture
def corrected(tmp_path: Path) -> Path:
    """A packed folder with an adapter in it, and a tokenizer."""
    checkpoint = quantized(gguf_checkpoint("llama"))
    files = adapter_files(drawn(checkpoint, 2), rank=2, dtype=torch.float32)
    light = replace(checkpoint, files={**checkpoint.files, **files})
    assert load_tokenizer(light)("load").input_ids
    return written(light, tmp_path / "light")


def test_codes_that_are_opened_again_keep_their_correction(corrected: Path) -> None:
    source = find_model(str(corrected))
    found = open_checkpoint(source, dequantize=False)
    for name in ADAPTER_FILES:
        assert found.files[name] == (corrected / name).read_bytes()
    with pytest.warns(UserWarning, match=r"has an adapter beside its weights, which is not read"):
        assert not has_adapter(open_checkpoint(source))


def test_another_adapter_is_another_model_to_a_run(corrected: Path) -> None:
    step = load(model=str(corrected))
    reads = step.factory.hooks.reads
    assert reads is not None
    before = reads(step.settings)
    (corrected / ADAPTER_FILES[1]).write_bytes(b"others")
    assert reads(step.settings) != before


def test_a_missing_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_adapter, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"heal\(method='lora'\).*birdbone\[peft\]"):
        peft_adapter.require_peft("lora")


def test_peft_is_found_where_it_is_installed() -> None:
    peft_adapter.require_peft("lora")
