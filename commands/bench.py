"""``birdbone bench MODEL...``: compare saved models, each in its own runtime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingError

if TYPE_CHECKING:
    from ..formats.runtime_benchmark import BenchmarkedModel
    from ..models.reading.sources import Source
    from ..texts import Corpus

_MODELS = "Hugging Face folders, .gguf files, or folders with one .gguf file."
_DATA = "Text to score on; only its held-out part is used, as by the link save."
_HELDOUT = "Text to score on instead, used as a whole."
_WINDOWS = "Maximum number of windows to score."
_OUT = "Also write the JSON document to this file."
_TRUST = "Allow Python code in a model folder to run."


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=_MODELS)],
    data: Annotated[str, typer.Option(help=_DATA)] = "pydoc",
    heldout_data: Annotated[str | None, typer.Option(help=_HELDOUT)] = None,
    windows: Annotated[int, typer.Option(min=1, help=_WINDOWS)] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 512,
    rounds: Annotated[
        int, typer.Option(min=1, help="Timed runs per model; medians are reported.")
    ] = 3,
    out: Annotated[Path | None, typer.Option(help=_OUT)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
) -> None:
    """Measure size, perplexity, speed and memory of saved models, taking turns.

    Every run is a fresh process. Hugging Face folders are run by transformers, in float32 on a CPU;
    GGUF files are run by llama.cpp (the extra birdbone[llama]). Perplexities are comparable only
    between models with the same tokenizer.
    """
    from ..formats.runtime_benchmark import run_benchmark
    from ..reports.bench import contest_document, contest_report
    from ..reports.terminal import quiet_libraries, say, show, warnings_as_notes

    def told(label: str, done: int, total: int | None) -> None:
        if label == "runs" and not quiet:
            say("birdbone", f"run {done + 1} of {total}")

    with warnings_as_notes(), quiet_libraries():
        corpus = _corpus(data, heldout_data)
        contenders = [_contender(name, corpus, windows, length, trust) for name in models]
        found = asyncio.run(run_benchmark(contenders, rounds=rounds, announce=told))
    measured_on = _measured_on(contenders, corpus, length, rounds)
    document = json.dumps(contest_document(found, measured_on), indent=2, ensure_ascii=False)
    if out is not None:
        out.write_text(document + "\n", encoding="utf-8")
    typer.echo(document) if as_json else show(contest_report(found, measured_on))


def _corpus(data: str, heldout_data: str | None) -> Corpus:
    """The text to score on: ``heldout_data`` as a whole, else the held-out part of ``data``."""
    from ..texts import Corpus, read_corpus, split

    if heldout_data is not None:
        return read_corpus(heldout_data)
    corpus = read_corpus(data)
    return Corpus(f"{corpus.name}, heldout", split(corpus).heldout)


def _contender(
    name: str, corpus: Corpus, windows: int, length: int, trust: bool
) -> BenchmarkedModel:
    import torch

    from ..formats.llama_cpp import require_llama_cpp
    from ..formats.runtime_benchmark import BenchmarkedModel
    from ..models.blocks.device import default_device
    from ..models.evaluation.fresh_process import Probe
    from ..models.reading.sources import find_model
    from ..models.reading.tokenizer import read_tokenizer
    from ..texts import pack_windows

    source = find_model(name)
    if source.gguf is not None:
        require_llama_cpp()
    tokenizer = read_tokenizer(source, trust_remote_code=trust)
    _check_length(name, source, length, trust)
    packed = pack_windows(
        corpus.documents, tokenizer, length=length, limit=windows, text=corpus.name, seed=0
    )
    device = default_device()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    probe = Probe(packed.tokens, dtype, str(device), repeats=1, trust_remote_code=trust)
    return BenchmarkedModel(name, source, probe, len(tokenizer))


def _check_length(name: str, source: Source, length: int, trust: bool) -> None:
    """Refuse windows longer than the model's context before any process is started."""
    from ..models.reading.opening import positions_of

    most = positions_of(source, trust_remote_code=trust)
    if most is not None and length > most:
        raise SettingError(
            f"windows of {length} tokens are longer than the context of '{name}', {most} tokens; "
            f"give --length {most} or less"
        )


def _measured_on(
    contenders: Sequence[BenchmarkedModel], corpus: Corpus, length: int, rounds: int
) -> dict[str, str]:
    probe = contenders[0].probe
    counts = {each.probe.tokens.shape[0] for each in contenders if each.probe.tokens is not None}
    return {
        "text": corpus.name,
        "windows": f"{' or '.join(map(str, sorted(counts)))} of {length} tokens",
        "speed": f"{probe.prefill_tokens} tokens read, {probe.decode_tokens} decoded, one sequence",
        "rounds": str(rounds),
    }
