"""The ``birdbone`` command line.

Reports are made in `reports` and chains in `chains`; this file connects them to options. Modules
that need torch are imported inside the commands that use them, so that ``birdbone --help`` is fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from . import __version__
from .commands.bench import bench
from .commands.diff import diff
from .commands.export import export
from .commands.gc import gc
from .commands.log import log as log_steps
from .commands.look_ahead import look_ahead, tell_after, tell_ahead
from .commands.options import one_or_more
from .commands.plot import plot
from .commands.prove import prove
from .commands.revert import revert
from .errors import BirdboneError, LinkError, SettingError, did_you_mean

if TYPE_CHECKING:
    from .engine import Chain
    from .journal import RunFolder

_CHAIN = "A predefined chain, see `birdbone chains`; not needed with --recipe."
_DRY = "Print the expected time, memory and disk of each link, and run nothing."
_FORCE = "Replace the output even if birdbone did not write it."
_RUN = "Keep finished links in this folder, and resume from what it holds."
_MODEL = "Hub id, folder, .gguf file, or package:NAME/FILE.gguf."
_DATA = (
    "Text: a file, folder or glob, hf:DATASET[:CONFIG[:SPLIT]], self (sampled from the model), or "
    "built in: pydoc, stdlib, readmes. By default a mixture of self, pydoc and stdlib. Repeatable; "
    "a weight follows a colon, as in chat.jsonl:2."
)
_ELSEWHERE = (
    "Evaluation text from another source, repeatable; by default a built-in text that is not used."
)
_OUT = "Folder to write; a name that ends in .gguf is a single file."
_TARGET = "Fraction of the parameters to keep, for chains with waves."
_STOP_LOSS = "Maximum relative rise in perplexity over the dense model, for chains with waves."
_BITS = "Bits per weight, for chains that quantize."
_SET = "Change a setting of a link; repeatable."
_UNUSED = "Carry tensors that the transformers class has no parameters for; on by default."
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


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


@app.command()
def run(
    chain: Annotated[str | None, typer.Argument(metavar="CHAIN", help=_CHAIN)] = None,
    model: Annotated[str | None, typer.Option(help=_MODEL)] = None,
    out: Annotated[str | None, typer.Option(metavar="PATH", help=_OUT)] = None,
    data: Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_DATA)] = None,
    elsewhere: Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_ELSEWHERE)] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="LINK.SETTING=VALUE", help=_SET),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A chain written in YAML.")] = None,
    target: Annotated[float | None, typer.Option(help=_TARGET)] = None,
    stop_loss: Annotated[float | None, typer.Option(help=_STOP_LOSS)] = None,
    bits: Annotated[int | None, typer.Option(help=_BITS)] = None,
    keep_unused: Annotated[
        bool | None,
        typer.Option("--keep-unused/--no-keep-unused", help=_UNUSED, show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help=_FORCE)] = False,
    run_folder: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help=_RUN, show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY)] = False,
    as_json: _AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress and no times.")] = False,
    log: Annotated[
        Literal["json", "console"] | None,
        typer.Option(help="Write structured log lines to stderr."),
    ] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Log to this Weights & Biases project.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of CPU threads.")] = None,
) -> None:
    """Run a chain on a model, and print what it saved and what it cost."""
    _use_threads(threads)
    from .reports.terminal import quiet_libraries, warnings_as_notes

    with ExitStack() as stack:
        stack.enter_context(warnings_as_notes(as_json=log == "json"))
        stack.enter_context(quiet_libraries())
        stack.enter_context(redirect_stdout(sys.stderr))  # stdout is reserved for the result
        assembled = _assemble(chain, recipe, model=model, out=out, data=one_or_more(data))
        shortcuts = {
            "target": target,
            "stop-loss": stop_loss,
            "bits": bits,
            "elsewhere": one_or_more(elsewhere),
            "keep-unused": keep_unused,
        }
        assembled = _configured(assembled, assignments or [], shortcuts, force=force)
        silent = quiet or as_json or log is not None
        expected = look_ahead(assembled, run_folder, dry_run=dry_run, quiet=silent)
        result: dict[str, Any] = {}
        if not dry_run:
            for each in _middleware(quiet=quiet, as_json=as_json, log=log, wandb=wandb):
                assembled.use(each)
            store = None if run_folder is None else stack.enter_context(_opened(run_folder))
            result = _run(assembled, store)
    if dry_run:
        tell_ahead(expected, as_json=as_json)
    else:
        tell_after(expected, result, as_json=as_json)


def _run(chain: Chain, store: RunFolder | None) -> dict[str, Any]:
    from .commands.stopping import Stopped, run_until_stopped
    from .reports.terminal import say

    try:
        return run_until_stopped(chain, tell=lambda words: say("birdbone", words), store=store)
    except Stopped as stopped:
        say("birdbone", str(stopped))
        raise typer.Exit(128 + stopped.number) from None


def _opened(folder: Path) -> RunFolder:
    from .journal import RunFolder
    from .reports.terminal import say

    return RunFolder(folder, tell=lambda line: say("birdbone", line))


def _use_threads(threads: int | None) -> None:
    """Set the thread count, also for fresh processes, which inherit the environment."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)


def _assemble(
    name: str | None,
    recipe: Path | None,
    *,
    model: str | None,
    out: str | None,
    data: str | tuple[str, ...] | None,
) -> Chain:
    from .chains import CHAINS, build, load_recipe

    if recipe is not None:
        loaded = load_recipe(recipe)
        if name is not None and name != loaded.chain:
            raise typer.BadParameter(f"the recipe is not of chain '{name}'; leave CHAIN out")
        return build(loaded, model=model, out=out, data=data)
    if name is None:
        raise typer.BadParameter(f"give CHAIN, one of {', '.join(CHAINS)}, or --recipe FILE")
    if name not in CHAINS:
        raise SettingError(f"there is no chain '{name}'; {did_you_mean(name, CHAINS)}")
    if model is None or out is None:
        raise typer.BadParameter(f"chain '{name}' needs --model and --out")
    if data is None:
        return CHAINS[name](model=model, out=out)
    return CHAINS[name](model=model, out=out, data=data)


def _configured(
    chain: Chain, assignments: Sequence[str], shortcuts: Mapping[str, Any], *, force: bool
) -> Chain:
    """The chain with the given options applied; its output is known to be writable."""
    from .chains import configure, parse_assignment
    from .commands.shortcuts import changes_of
    from .links.saving.target import check_output
    from .reports.chains import save_links

    changes = changes_of(chain, shortcuts)
    if force:
        changes["save.force"] = True
    for text in assignments:
        key, value = parse_assignment(text)
        if key in changes:
            raise SettingError(f"{key} is set twice; set it once")
        changes[key] = value
    configured = configure(chain, changes)
    for each in save_links(configured):
        check_output(each.settings.path, each.settings.format, each.settings.force)
    return configured


def _middleware(
    *, quiet: bool, as_json: bool, log: Literal["json", "console"] | None, wandb: str | None
) -> list[Any]:
    """The middleware of a run. Structured log lines replace the other lines, not mix with them."""
    from . import middleware

    lines = not quiet and log is None
    chosen: list[Any] = [middleware.Progress()] if lines and not as_json else []
    if lines:
        chosen += [middleware.Timing(), middleware.GpuMemory()]
    else:
        chosen.append(middleware.GpuMemory(write=lambda line: None))
    if log is not None:
        chosen.append(middleware.Logging(renderer=log))
    if wandb is not None:
        chosen.append(middleware.WandbLogging(project=wandb))
    return chosen


app.command()(bench)
app.command()(export)
app.command()(prove)


def _write_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


app.command()(plot)


@app.command()
def chains(as_json: _AsJson = False) -> None:
    """List the predefined chains."""
    from .chains import CHAINS
    from .reports.chains import chain_page, chains_report
    from .reports.terminal import show

    pages = [chain_page(name, make) for name, make in CHAINS.items()]
    _write_json([page.as_dict() for page in pages]) if as_json else show(chains_report(pages))


@app.command()
def links(
    name: Annotated[str | None, typer.Argument(help="A link whose settings to show.")] = None,
    as_json: _AsJson = False,
) -> None:
    """List the links, or show the settings of one."""
    from .chains import LINKS
    from .reports.links import link_page, link_report, links_report
    from .reports.terminal import show

    if name is None:
        pages = [link_page(factory) for factory in LINKS.values()]
        _write_json([page.as_dict() for page in pages]) if as_json else show(links_report(pages))
    elif name in LINKS:
        page = link_page(LINKS[name])
        _write_json(page.as_dict()) if as_json else show(link_report(page))
    else:
        raise SettingError(f"there is no link '{name}'; {did_you_mean(name, LINKS)}")


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    zeros: Annotated[
        bool, typer.Option("--zeros", help="Also count zeros, which reads all weights.")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Show the architecture, size and history of a model, from its headers."""
    from .reports.description import inspection_report
    from .reports.inspection import inspect_model
    from .reports.terminal import quiet_libraries, show, warnings_as_notes

    with warnings_as_notes(), quiet_libraries():
        found = inspect_model(model, zeros=zeros)
    _write_json(found.as_dict()) if as_json else show(inspection_report(found))


@app.command()
def doctor(as_json: _AsJson = False) -> None:
    """Check this installation. Exit code 1 if something required is missing or broken."""
    from .reports.doctor import doctor_report, examine
    from .reports.terminal import show

    checks = examine()
    _write_json([each.as_dict() for each in checks]) if as_json else show(doctor_report(checks))
    if any(check.breaks for check in checks):
        raise typer.Exit(1)


app.command("log")(log_steps)
app.command()(diff)
app.command()(revert)
app.command()(gc)
