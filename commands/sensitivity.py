"""``birdbone sensitivity MODEL``: the linears that lose most by fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .execution import Execution, execute
from .options import (
    MODEL,
    AsJson,
    Data,
    Device,
    DryRun,
    PassPrecision,
    Quiet,
    RunFolderPath,
    Threads,
    one_or_more,
)

if TYPE_CHECKING:
    from ..contexts.forecast import Preflight
    from ..engine import Chain

_TOP = "Number of linears to list."
_BITS = "Bits at which linears are ranked."
_PLOT = "Also plot all linears to this .png or .svg file; needs the extra birdbone[plot]."
_WINDOWS = "Number of windows of text to measure on."


def sensitivity_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    data: Data = None,
    windows: Annotated[int, typer.Option(min=1, help=_WINDOWS)] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 512,
    bits: Annotated[int, typer.Option(min=2, max=8, help=_BITS)] = 4,
    top: Annotated[int, typer.Option(min=1, help=_TOP)] = 15,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help=_PLOT)] = None,
    run_folder: RunFolderPath = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    threads: Threads = None,
    device: Device = None,
    precision: PassPrecision = None,
) -> None:
    """Estimate what fewer bits cost in each linear, and list the worst.

    The estimate is the output error of rounding, weighted by the squared gradient of the loss. It
    takes a gradient pass and a calibration pass; --run DIR keeps the result.
    """

    def assemble() -> Chain:
        from ..engine import Chain
        from ..links import calibrate, load
        from ..links import sensitivity as estimate
        from ..reports.figures import check_plot_file, require_matplotlib

        if plot is not None:
            check_plot_file(plot)
            require_matplotlib()
        texts = calibrate(
            data=one_or_more(data) or "default",
            windows=windows,
            healing_windows=1,
            heldout_windows=1,
            elsewhere_windows=1,
            length=length,
        )
        estimates = estimate(bits=tuple(sorted({2, 3, 4, 6, 8, bits})))
        source = load(model=model, device=device or "auto", precision=precision or "auto")
        return Chain(source, texts, estimates, name="sensitivity")

    def tell(found: Preflight | None, result: Mapping[str, Any], *, as_json: bool) -> None:
        from ..reports.sensitivity import (
            draw_sensitivity,
            sensitivity_document,
            sensitivity_report,
        )
        from .options import answer

        measured = result["sensitivity"]
        if plot is not None:
            draw_sensitivity(measured, plot, bits=bits)
        answer(
            sensitivity_document(measured, bits=bits),
            lambda: sensitivity_report(measured, bits=bits, top=top),
            as_json=as_json,
        )

    how = Execution(
        run_folder=run_folder, dry_run=dry_run, as_json=as_json, quiet=quiet, threads=threads
    )
    execute(assemble, how, tell=tell)
