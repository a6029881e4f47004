"""A GGUF file is compared with the values it stores, by llama.cpp in a fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_windows
from tiny_gguf import gguf_checkpoint

from birdbone.errors import ProofError
from birdbone.links.saving.gguf import file_name, judge_file, score_tolerance, write_file
from birdbone.links.saving.judging import probe_for


def test_a_folder_holds_model_gguf_and_a_file_has_its_own_name(tmp_path: Path) -> None:
    assert file_name(tmp_path / "light") == "model.gguf"
    assert file_name(tmp_path / "light.gguf") == "light.gguf"


def test_types_with_few_bits_have_more_tolerance_unless_one_is_asked_for() -> None:
    checkpoint = gguf_checkpoint("llama")
    assert score_tolerance(checkpoint, "f32", None) < score_tolerance(checkpoint, "q4_0", None)
    assert score_tolerance(checkpoint, "q4_0", 0.5) == 0.5


async def test_a_file_that_does_not_compute_what_it_stores_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    checkpoint = gguf_checkpoint("llama")
    windows = tiny_windows(3, vocab=int(checkpoint.config["vocab_size"]))
    ctx: Any = {"checkpoint": checkpoint, "dense": checkpoint, "heldout": windows}
    path = tmp_path / "model.gguf"
    await write_file(checkpoint, path, "f32")
    probe = probe_for(checkpoint, {"heldout": windows})
    name = "model.layers.0.mlp.down_proj.weight"
    other = checkpoint.evolve({name: checkpoint.tensors[name] * 3})
    assert not torch.equal(other.tensors[name], checkpoint.tensors[name])
    with pytest.raises(ProofError, match=r"has perplexity .* in a fresh process"):
        await judge_file(
            ctx, other, path, None, probe, tolerance=score_tolerance(checkpoint, "f32", None)
        )
