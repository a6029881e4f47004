"""Proof of a folder that holds a GGUF file: its papers, and what llama.cpp computes with it.

The record beside the file is of the values it stores, as they were computed in memory when it was
saved; llama.cpp, in a fresh process, must give the same text as many nats. It tells no logits, only
probabilities, so single logits are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import MissingExtraError, ModelError, ProofError
from ..models.evaluation.fresh_process import Announce, Probe
from ..models.evaluation.proof import Check, Proof, check_score, read_papers
from ..models.evaluation.record import Record
from ..models.reading.gguf_header import read_header
from ..models.reading.sources import find_model
from .llama_cpp import require_llama_cpp, run_llama_cpp

# Timing is no part of the proof; the fewest tokens that show it decodes.
_PROBE = Probe(None, torch.float32, prefill_tokens=8, decode_tokens=8, repeats=1)


async def prove_gguf(
    folder: Path, *, announce: Announce = lambda label, done, total: None
) -> Proof:
    """Look at everything a folder with a GGUF file holds, and run it where llama.cpp is installed.

    Where it is not, files and bytes are looked at all the same, and the folder is not proven.

    Raises:
        ModelError: there is no GGUF file, or several.
    """
    source = find_model(str(folder))
    papers = read_papers(folder)
    try:
        require_llama_cpp()
    except MissingExtraError as error:
        return papers.with_checks([Check("opens", None, str(error))])
    record = papers.record
    tokens = None if record is None else [window.tokens for window in record.windows]
    announce("file opened by llama.cpp in a fresh process", 0, None)
    try:
        vocabulary = len(read_header(source).fields["tokenizer.ggml.tokens"].data)
        path = (folder / str(source.gguf)).resolve()
        found = await run_llama_cpp(path, tokens, _PROBE, vocabulary, announce)
    except (ProofError, ModelError, KeyError) as error:
        return papers.with_checks([Check("opens", False, str(error))])
    return papers.with_checks(_opened(found, record), environment=found["environment"])


def _opened(found: dict[str, Any], record: Record | None) -> Iterator[Check]:
    runtime = found["environment"]["llama.cpp"]
    yield Check("opens", True, f"llama.cpp ({runtime}), no code of ours: it reads and decodes")
    if record is not None:
        yield check_score(record, found["nll"])
