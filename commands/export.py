"""``birdbone export FOLDER``: a model that is saved already, in another format."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, redirect_stdout
from typing import Annotated

import typer

_MODEL = "What birdbone run takes as --model: a folder, a .gguf file, a hub id."
_FORMAT = "safetensors, compressed-tensors, bitsandbytes or gguf."
_TYPE = "What weights are stored as: float32…, int2 to int8, nf4 or llm.int8, f16, q8_0, q4_0…"
_DTYPE = "What is stored that is on no grid: auto, float32, bfloat16, float16."
_DATA = "Text whose held-out part the result is scored on."
_UNUSED = "Carry tensors the transformers class has no parameters for."
_TRUST = "Allow Python that the model brings to run."
_FORCE = "Replace the folder even if birdbone did not make it."


def export(
    model: Annotated[str, typer.Argument(metavar="FOLDER", help=_MODEL)],
    format: Annotated[str, typer.Option(help=_FORMAT)],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write.")],
    type: Annotated[str | None, typer.Option(help=_TYPE)] = None,
    dtype: Annotated[str, typer.Option(help=_DTYPE)] = "auto",
    data: Annotated[str, typer.Option(help=_DATA)] = "pydoc",
    windows: Annotated[int, typer.Option(min=0, help="To score on; 0 for none.")] = 4,
    length: Annotated[int, typer.Option(min=2, help="Tokens a window.")] = 512,
    force: Annotated[bool, typer.Option("--force", help=_FORCE)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no timing.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
    keep_unused: Annotated[
        bool, typer.Option("--keep-unused/--no-keep-unused", help=_UNUSED)
    ] = True,
) -> None:
    """Write a model that is saved already in another format, and prove it as save does.

    Codes are chosen to the nearest, without looking at text; birdbone run with quantize() chooses
    better. Codes of compressed-tensors stay as they are where no --type is given, in a GGUF file
    too where one of its types holds them.
    """
    from ..chains.exporting import export_chain
    from ..middleware import GpuMemory, Progress, Timing
    from ..reports.result import result_document, result_report
    from ..reports.terminal import quiet_libraries, say, show, warnings_as_notes
    from .stopping import Stopped, run_until_stopped

    with ExitStack() as stack:
        stack.enter_context(warnings_as_notes())
        stack.enter_context(quiet_libraries())
        stack.enter_context(redirect_stdout(sys.stderr))  # stdout is for the result alone
        chain = export_chain(
            model=model,
            out=out,
            format=format,
            type=type,
            dtype=dtype,
            data=data,
            windows=windows,
            length=length,
            force=force,
            trust_remote_code=trust,
            keep_unused=keep_unused,
        )
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
