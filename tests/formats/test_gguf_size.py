"""The predicted size is that of the written file, for every architecture and mixture of types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import VARIANTS, gguf_checkpoint

from birdbone.checkpoints import Checkpoint, GgmlBlocks
from birdbone.formats.ggml_types import GGML_KINDS, GgmlKind
from birdbone.formats.gguf_size import gguf_bytes, gguf_data_bytes, gguf_header_bytes
from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.blocks.linears import all_linears
from birdbone.models.planning.outline import exchanged, outlined_blocks
from birdbone.solvers.grid import NAMED_GRIDS


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:.*the blocks of q8_0 do not divide their width")
def test_every_architecture(variant: str, tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint(variant)
    written = write_gguf(checkpoint, tmp_path / "model.gguf", kind="q8_0")
    assert gguf_bytes(checkpoint, kind="q8_0") == written.num_bytes


@pytest.mark.parametrize("kind", GGML_KINDS)
@pytest.mark.filterwarnings("ignore:.*do not divide their width")
def test_every_type(kind: GgmlKind, tmp_path: Path) -> None:
    """The width of down_proj is a multiple of 256, other widths are multiples of 32."""
    checkpoint = _wide("llama")
    written = write_gguf(checkpoint, tmp_path / "model.gguf", kind=kind)
    assert gguf_bytes(checkpoint, kind=kind) == written.num_bytes


@pytest.mark.filterwarnings("ignore:.*are written as")
@pytest.mark.parametrize("variant", ["llama", "llama tied", "qwen3", "gpt2"])
def test_mixed_types(variant: str, tmp_path: Path) -> None:
    """Every linear has the next of the types that its width admits."""
    checkpoint = _wide(variant)
    mixed = exchanged(checkpoint, _mixed(checkpoint))
    written = write_gguf(_with_values(mixed), tmp_path / "model.gguf")
    assert len(written.kinds) > 3
    assert gguf_bytes(mixed) == written.num_bytes
    assert gguf_header_bytes(mixed) == gguf_header_bytes(checkpoint)
    assert gguf_data_bytes(mixed) < gguf_data_bytes(checkpoint)


def test_without_tokenizer() -> None:
    """The outline of a GGUF file has no files; everything else is counted."""
    checkpoint = gguf_checkpoint()
    bare = replace(checkpoint, files={})
    assert 0 < gguf_header_bytes(bare) < gguf_header_bytes(checkpoint)
    assert gguf_data_bytes(bare) == gguf_data_bytes(checkpoint)


def _wide(variant: str) -> Checkpoint:
    sizes = {"n_inner" if variant == "gpt2" else "intermediate_size": 256}
    return gguf_checkpoint(variant, **sizes)


def _mixed(checkpoint: Checkpoint) -> dict[str, Any]:
    found = {}
    for place, linear in enumerate(all_linears(checkpoint)):
        width = linear.shape[1]
        fitting = [
            name for name, grid in NAMED_GRIDS.items() if width % (grid.super_block or 32) == 0
        ]
        kind = fitting[place % len(fitting)]
        found[linear.tensor] = outlined_blocks(linear.shape, kind, transposed=linear.transposed)
    return found


def _with_values(outline: Checkpoint) -> Checkpoint:
    """Zeros in place of blocks on the meta device."""
    return exchanged(
        outline,
        {
            name: GgmlBlocks(
                ref.blocks.new_zeros(ref.blocks.shape, device="cpu"),
                kind=ref.kind,
                transposed=ref.transposed,
            )
            for name, ref in outline.refs.items()
            if isinstance(ref, GgmlBlocks)
        },
    )
