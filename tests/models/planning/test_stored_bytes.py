"""Predicted bytes of a folder are those of its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_folders import for_bitsandbytes, quantized, written

from birdbone.checkpoints import Checkpoint, InMemory, Quantized
from birdbone.errors import SettingError
from birdbone.links.quantizing.embeddings import outlined_embeddings, round_embeddings
from birdbone.models.blocks.linears import all_linears
from birdbone.models.planning.outline import exchanged, outlined_codes
from birdbone.models.planning.stored_bytes import embedding_bytes, linear_bytes, stored_bytes
from birdbone.solvers.grid import Grid

PACKABLE = ("llama", "llama_tied", "qwen3", "gemma3")
_MIXED = {"down_proj": Grid(8, None), "up_proj": Grid(3, 8), "o_proj": Grid(2, 32)}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _in(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    values = {name: ref.load().to(dtype) for name, ref in checkpoint.refs.items()}
    return checkpoint.evolve(values, config={"dtype": str(dtype).removeprefix("torch.")})


@pytest.mark.parametrize("arch", [*PACKABLE, "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense(arch: str, dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = _in(tiny_checkpoint(arch), dtype)
    assert stored_bytes(checkpoint) == _size(written(checkpoint, tmp_path / "light"))


@pytest.mark.parametrize("arch", PACKABLE)
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("group_size", [8, 32, None])
def test_packed(arch: str, bits: int, group_size: int | None, tmp_path: Path) -> None:
    checkpoint = quantized(tiny_checkpoint(arch), every=Grid(bits, group_size))
    assert stored_bytes(checkpoint) == _size(written(checkpoint, tmp_path / "light"))


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "qwen3"])
def test_mixed_with_embeddings(arch: str, tmp_path: Path) -> None:
    checkpoint, _ = round_embeddings(
        quantized(_in(tiny_checkpoint(arch), torch.bfloat16), **_MIXED)
    )
    assert stored_bytes(checkpoint) == _size(written(checkpoint, tmp_path / "light"))


def test_shards(tmp_path: Path) -> None:
    checkpoint = quantized(tiny_checkpoint("llama"))
    folder = written(checkpoint, tmp_path / "light", max_shard_bytes=20_000)
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert stored_bytes(checkpoint, max_shard_bytes=20_000) == _size(folder)


def test_unused_tensors(tmp_path: Path) -> None:
    unused = {"vision.weight": InMemory(torch.zeros(5, 7, dtype=torch.float16))}
    checkpoint = replace(tiny_checkpoint("llama"), unused=unused)
    assert stored_bytes(checkpoint) == _size(written(checkpoint, tmp_path / "light"))


def test_from_shapes() -> None:
    """An outline of codes has the size of the codes."""
    dense = tiny_checkpoint("llama_tied")
    light, _ = round_embeddings(quantized(dense))
    outline = {
        name: outlined_codes(dense.refs[name], ref.bits, ref.scales.shape[1], ref.scales.dtype)
        for name, ref in light.refs.items()
        if isinstance(ref, Quantized) and "layers" in name
    }
    outlined = exchanged(dense, {**outline, **outlined_embeddings(dense)})
    assert stored_bytes(outlined) == stored_bytes(light)


@pytest.mark.parametrize("tied", [0, 1])
def test_parts_make_the_whole(tied: int) -> None:
    """The difference between two folders without their headers is that of their tensors."""
    dense = tiny_checkpoint("llama_tied" if tied else "llama")
    light, _ = round_embeddings(quantized(dense, every=Grid(3, 16)))
    linears = {each.tensor: each.shape for each in all_linears(dense)}
    parts = sum(linear_bytes(shape, 3, 16, torch.float32) for shape in linears.values())
    rows = embedding_bytes((128, 32), torch.float32, tied) * (1 if tied else 2)
    norms = sum(
        ref.num_bytes for name, ref in dense.refs.items() if name not in linears and "norm" in name
    )
    headers = stored_bytes(light) - parts - rows - norms
    names = sum(3 if name in linears else 2 for name in light.refs)
    assert 0 < headers < 120 * names


def test_bitsandbytes_is_refused() -> None:
    with pytest.raises(SettingError, match="stored by bitsandbytes"):
        stored_bytes(for_bitsandbytes(tiny_checkpoint("llama"), "llm.int8"))
