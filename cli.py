"""The ``birdbone`` command line: the commands of `commands`, and how their errors are shown.

Commands import what needs torch inside their functions, so that ``birdbone --help`` is fast.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .commands.bench import bench
from .commands.chains import chains
from .commands.compress import compress
from .commands.diff import diff_command
from .commands.doctor import doctor
from .commands.export import export
from .commands.fit import fit
from .commands.gc import gc
from .commands.inspect import inspect
from .commands.links import links
from .commands.log import log
from .commands.plot import plot
from .commands.prove import prove_command
from .commands.quantize import quantize_command
from .commands.revert import revert
from .commands.run import run_command
from .commands.sensitivity import sensitivity
from .errors import BirdboneError, LinkError

_PANELS = {
    "Make a model": (quantize_command, fit, compress, run_command, export),
    "Look at models": (inspect, sensitivity, bench, prove_command, diff_command, plot),
    "Look at runs": (log, revert, gc),
    "Reference": (chains, links, doctor),
}


class _Commands(TyperGroup):
    """Turns expected errors into one message and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        from .reports.terminal import escape_unprintable, say

        escape_unprintable()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of our output is gone
        except (BirdboneError, OSError) as error:
            if not _is_refusal(error):
                raise
            say("error", str(error), style="bold red")
            raise typer.Exit(1) from None


def _is_refusal(error: BirdboneError | OSError) -> bool:
    """Whether birdbone or the file system raised it; a `LinkError` may also wrap a bug."""
    cause = error.__cause__ if isinstance(error, LinkError) else error
    return isinstance(cause, BirdboneError | OSError)


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode="markdown",  # "rich" would take [llama] in a help text for markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of the ``birdbone`` script."""
    app(prog_name="birdbone")


@app.callback(invoke_without_command=True)
def _top(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make Hugging Face language models smaller and measure what it costs."""
    if version:
        typer.echo(f"birdbone {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


for _panel, _commands in _PANELS.items():
    for _each in _commands:
        # Functions named like a link or another function have a suffix.
        _name = _each.__name__.removesuffix("_command")
        app.command(_name, rich_help_panel=_panel)(_each)
