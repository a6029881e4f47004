"""``birdbone export MODEL``: convert a saved model to another format."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import ExitStack, redirect_stdout
from typing import Annotated

import typer

from ..errors import LittleTextWarning
from .options import Device, Elsewhere, one_or_more

_MODEL = "A folder, a .gguf file or a hub id, as for birdbone run --model."
_FORMAT = "safetensors, compressed-tensors, bitsandbytes or gguf; gguf if --out ends in .gguf."
_OUT = "Folder to write; a name that ends in .gguf is a single file."
_TYPE = (
    "Type of the weights: float32, bfloat16 or float16; int2 to int8; nf4 or llm.int8; f16, q8_0, "
    "q4_0 and others of GGUF."
)
_DTYPE = "Dtype of tensors that are not quantised: auto, float32, bfloat16 or float16."
_DATA = "Text whose held-out part the result is scored on. Repeatable."
_UNUSED = "Carry tensors that the transformers class has no parameters for."
_WINDOWS = "Windows of text to score on; 0 skips scoring."
_TRUST = "Allow Python code in the model folder to run."
_FORCE = "Replace the output even if birdbone did not write it."


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    out: Annotated[str, typer.Option(metavar="PATH", help=_OUT)],
    format: Annotated[str | None, typer.Option(help=_FORMAT)] = None,
    type: Annotated[str | None, typer.Option(help=_TYPE)] = None,
    dtype: Annotated[str, typer.Option(help=_DTYPE)] = "auto",
    data: Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_DATA)] = None,
    elsewhere: Elsewhere = None,
    windows: Annotated[int, typer.Option(min=0, help=_WINDOWS)] = 4,
    length: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 512,
    force: Annotated[bool, typer.Option("--force", help=_FORCE)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress and no times.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
    keep_unused: Annotated[
        bool, typer.Option("--keep-unused/--no-keep-unused", help=_UNUSED)
    ] = True,
    device: Device = None,
) -> None:
    """Convert a saved model to another format, and check the result in a fresh process.

    Quantised weights are rounded to nearest, without calibration; `birdbone quantize` gives better
    ones. Without --type, weights that compressed-tensors has quantised are kept exactly, also in a
    GGUF file if one of its types can hold them.
    """
    from ..chains.exporting import export_chain
    from ..chains.preflight.look import check_ahead
    from ..middleware import GpuMemory, Progress, Timing
    from ..reports.result import result_document, result_report
    from ..reports.terminal import quiet_libraries, say, show, warnings_as_notes
    from .stopping import Stopped, run_until_stopped

    with ExitStack() as stack:
        stack.enter_context(warnings_as_notes())
        warnings.simplefilter("ignore", LittleTextWarning)  # text is only scored on here
        stack.enter_context(quiet_libraries())
        stack.enter_context(redirect_stdout(sys.stderr))  # stdout is for the result alone
        chain = export_chain(
            model=model,
            out=out,
            format=format,
            type=type,
            dtype=dtype,
            data=one_or_more(data) or "pydoc",
            elsewhere=one_or_more(elsewhere),
            windows=windows,
            length=length,
            force=force,
            trust_remote_code=trust,
            keep_unused=keep_unused,
            device=device or "auto",
        )
        check_ahead(chain)
        for each in () if quiet else (Progress(), Timing(), GpuMemory()):
            chain.use(each)
        try:
            result = run_until_stopped(chain, tell=lambda words: say("birdbone", words))
        except Stopped as stopped:
            say("birdbone", str(stopped))
            raise typer.Exit(128 + stopped.number) from None
    if as_json:
        typer.echo(json.dumps(result_document(result), indent=2, ensure_ascii=False))
    else:
        show(result_report(result))
