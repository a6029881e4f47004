"""llama.cpp itself, to judge GGUF files by: what it makes of text and of tokens."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


class LlamaCpp:
    """A GGUF file opened by llama.cpp."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Tokens of ``text``, with those that begin and end one if ``special``."""
        body = json.dumps({"content": text, "add_special": special, "parse_special": True})
        request = urllib.request.Request(
            f"{self._server.listening_address}/tokenize",
            body.encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            tokens: list[int] = json.load(reply)["tokens"]
        return tokens

    def log_probabilities(self, tokens: Sequence[int], vocab_size: int) -> Tensor:
        """Of each token to come next, float64 [vocab_size]."""
        reply = self._server.handle_completions(
            {
                "prompt": list(tokens),
                "n_predict": 1,
                "n_probs": vocab_size,
                "temperature": 0,
                "cache_prompt": False,
                # What is sampled is not looked at, but half a letter would be held back with all
                # that was said of it. The bias is put on after the logits were taken down.
                "logit_bias": [[self.tokenize("a")[-1], 1000.0]],
            }
        )
        assert "choices" in reply, reply
        found = torch.full((vocab_size,), -torch.inf, dtype=torch.float64)
        for each in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        return found


@contextmanager
def opened(path: Path, *, context: int = 512) -> Iterator[LlamaCpp]:
    """llama.cpp with the file loaded; skips the test where it is not installed."""
    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="llama.cpp is not installed; pip install 'birdbone[llama]'"
    )
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    yield LlamaCpp(xllamacpp.Server(params))


def kl_divergence(wanted: Tensor, found: Tensor) -> float:
    """Of ``found`` from ``wanted``, both log-probabilities, in nats."""
    wanted = wanted.double()
    return float((wanted.exp() * (wanted - found)).sum())
