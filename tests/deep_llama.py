"""A deep random Llama on disk, and programs that print what memory they hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")

_HELD = """
from pathlib import Path

def held_bytes():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024
"""


def save_deep_llama(folder: Path, layers: int, *, width: int, inner: int, heads: int) -> None:
    """Write a bfloat16 model with 4 key/value heads and tied embeddings."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def layer_weights(*, width: int, inner: int, heads: int) -> int:
    """Weights of the linears of one of its layers."""
    return 2 * width**2 + 2 * width * (4 * width // heads) + 3 * width * inner


def printed(program: str, *paths: Path) -> Any:
    """Run a program, which may call ``held_bytes()``; returns its last line, which is JSON."""
    command = [sys.executable, "-c", _HELD + program, *map(str, paths)]
    # One arena: with several, what the C library keeps of freed memory hides what is held.
    env = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])
