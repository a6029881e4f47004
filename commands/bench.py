"""``birdbone bench MODEL...``: compare saved models, each in its own runtime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingError
from .options import Device, one_or_more

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..formats.runtime_benchmark import BenchmarkedModel
    from ..models.reading.sources import Source
    from ..texts import Windows

_MODELS = "Hugging Face folders, .gguf files, or folders with one .gguf file."
_DATA = "Text to score on; only its held-out part is used, as by the link save. Repeatable."
_HELDOUT = "Text to score on instead, used as a whole. Repeatable."
_ELSEWHERE = "Another text to score on too, used as a whole. Repeatable."
_WINDOWS = "Maximum number of windows to score of each text."
_NAMES = (("text", "windows"), ("elsewhere", "elsewhere_windows"))
_OUT = "Also write the JSON document to this file."
_RECORD = (
    "Also keep the result beside each model that birdbone saved, as bench.json, and write its "
    "report.html again."
)
_TRUST = "Allow Python code in a model folder to run."


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=_MODELS)],
    data: Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_DATA)] = None,
    heldout_data: Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_HELDOUT)] = None,
    elsewhere: Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_ELSEWHERE)] = None,
    windows: Annotated[int, typer.Option(min=1, help=_WINDOWS)] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 512,
    rounds: Annotated[
        int, typer.Option(min=1, help="Timed runs per model; medians are reported.")
    ] = 3,
    out: Annotated[Path | None, typer.Option(help=_OUT)] = None,
    record: Annotated[bool, typer.Option("--record", help=_RECORD)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
    device: Device = None,
) -> None:
    """Measure size, perplexity, speed and memory of saved models, taking turns.

    Every run is a fresh process. Hugging Face folders are run by transformers, in float32 on a CPU;
    GGUF files are run by llama.cpp (the extra birdbone[llama]). Perplexities are comparable only
    between models with the same tokenizer.
    """
    from ..checkpoints.placement import on_device
    from ..formats.runtime_benchmark import run_benchmark
    from ..models.writing.output_path import check_writable_file, write_text
    from ..reports.bench import contest_document, contest_report
    from ..reports.terminal import quiet_libraries, say, show, warnings_as_notes

    def report(label: str, done: int, total: int | None) -> None:
        if label == "runs" and not quiet:
            say("birdbone", f"run {done + 1} of {total}")

    with warnings_as_notes(), quiet_libraries(), on_device(device):
        if out is not None:
            check_writable_file(out)
        text = _Text(
            one_or_more(data) or "pydoc",
            one_or_more(heldout_data),
            one_or_more(elsewhere),
            windows,
            length,
        )
        read = [_contender(name, text, trust) for name in models]
        contenders, names = zip(*read, strict=True)
        found = asyncio.run(run_benchmark(contenders, rounds=rounds, announce=report))
    measured_on = _measured_on(contenders, names[0], length, rounds)
    document = json.dumps(contest_document(found, measured_on), indent=2, ensure_ascii=False)
    if record:
        _record(models, contest_document(found, measured_on))
    if out is not None:
        write_text(out, document + "\n")
    typer.echo(document) if as_json else show(contest_report(found, measured_on))


def _record(models: Sequence[str], document: Mapping[str, Any]) -> None:
    """Write the result beside each model that birdbone saved, and its page again if it has one."""
    from ..models.writing.output_path import write_text
    from ..models.writing.publishing import BENCH, REPORT, is_ours, path_of, records_of
    from ..reports.html_report.page import report_page
    from ..reports.html_report.records import read_model
    from ..reports.provenance import without_paths
    from ..reports.terminal import say

    content = json.dumps(without_paths(document), indent=2, ensure_ascii=False) + "\n"
    for path in map(Path, models):
        if not is_ours(records_of(path) if path.is_file() else path):
            say("birdbone", f"birdbone did not save '{path}', so nothing is recorded beside it")
            continue
        write_text(path_of(path, BENCH), content)
        page = path_of(path, REPORT)
        if page.is_file():
            write_text(page, report_page([read_model(path)]))


@dataclass(frozen=True)
class _Text:
    """What is scored on, and how much of it."""

    data: str | tuple[str, ...]
    heldout_data: str | tuple[str, ...] | None
    elsewhere: str | tuple[str, ...] | None
    windows: int
    length: int

    def read(self, tokenizer: PreTrainedTokenizerBase) -> list[Windows]:
        """The windows of each text in this tokenizer's tokens: one or two texts."""
        from ..links.calibrating.heldout import heldout_windows

        wholes = [self.heldout_data, *([self.elsewhere] if self.elsewhere else [])]
        return [
            heldout_windows(self.data, whole, tokenizer, length=self.length, limit=self.windows)
            for whole in wholes
        ]


def _contender(name: str, text: _Text, trust: bool) -> tuple[BenchmarkedModel, list[str]]:
    """The model with the windows it is scored on, and the names of the texts."""
    import torch

    from ..formats.llama_cpp import require_llama_cpp
    from ..formats.runtime_benchmark import BenchmarkedModel
    from ..models.blocks.device import default_device
    from ..models.evaluation.fresh_process import Probe
    from ..models.reading.quantized import only_dtype
    from ..models.reading.sources import find_model, read_config
    from ..models.reading.tokenizer import read_tokenizer

    source = find_model(name)
    if source.gguf is not None:
        require_llama_cpp()
    tokenizer = read_tokenizer(source, trust_remote_code=trust)
    _check_length(name, source, text.length, trust)
    windows = text.read(tokenizer)
    device = default_device()
    only = None if source.gguf else only_dtype(source.folder, read_config(source))
    dtype = only or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    probe = Probe(
        windows[0].tokens,
        dtype,
        str(device),
        repeats=1,
        trust_remote_code=trust,
        elsewhere=windows[1].tokens if len(windows) > 1 else None,
    )
    return BenchmarkedModel(name, source, probe, len(tokenizer)), [each.text for each in windows]


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
    contenders: Sequence[BenchmarkedModel], texts: Sequence[str], length: int, rounds: int
) -> dict[str, str]:
    probe = contenders[0].probe
    scored = [(each.probe.tokens, each.probe.elsewhere) for each in contenders]
    text: dict[str, str] = {}
    for place, (name, names) in enumerate(zip(texts, _NAMES, strict=False)):
        counts = {len(tokens) for pair in scored if (tokens := pair[place]) is not None}
        words = " or ".join(map(str, sorted(counts)))
        text |= dict(zip(names, (name, f"{words} of {length} tokens"), strict=True))
    return {
        **text,
        "speed": f"{probe.prefill_tokens} tokens read, {probe.decode_tokens} decoded, one sequence",
        "rounds": str(rounds),
    }
