"""The ``birdbone`` command line: the commands of `commands`, and how their errors are shown.

Commands import what needs torch inside their functions, so that ``birdbone --help`` is fast.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .commands.panels import add_commands
from .commands.silence import only_first_rank_prints, refuse_ranks, speak_for_lost
from .errors import BirdboneError, LinkError


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
            with speak_for_lost():
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
    with only_first_rank_prints():
        app(prog_name="birdbone")


@app.callback(invoke_without_command=True)
def _top(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make Hugging Face language models smaller and measure what it costs."""
    refuse_ranks(ctx.invoked_subcommand)
    if version:
        typer.echo(f"birdbone {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


add_commands(app)
