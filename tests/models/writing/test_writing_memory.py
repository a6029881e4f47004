"""Writing a folder takes the memory of one tensor, whatever the depth of the model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

WRITE = """
import sys
from pathlib import Path
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.writing.folder import write_model

def held():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
checkpoint = open_checkpoint(find_model(str(source)))
folder.mkdir()
before, after = held(), []
write_model(
    checkpoint, folder, max_shard_bytes=1 << 40, announce=lambda *done: after.append(held())
)
print(max(after) - before)
"""
LAYER_BYTES = 2 * (2 * 512**2 + 2 * 512 * 256 + 3 * 512 * 1408)


def bytes_taken(folder: Path, layers: int) -> int:
    """Anonymous memory that writing a random bfloat16 Llama from disk to disk adds."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / "from")
    command = [sys.executable, "-c", WRITE, str(folder / "from"), str(folder / "to")]
    env = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layers", [24, 48])
def test_a_deep_model_takes_no_more_than_a_few_layers(layers: int, tmp_path: Path) -> None:
    assert bytes_taken(tmp_path, layers) < 6 * LAYER_BYTES
