"""``birdbone run CHAIN``: run a predefined chain or a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingError, did_you_mean
from .changes import configured
from .execution import Execution, execute
from .options import (
    MODEL,
    ActivationsPlace,
    AsJson,
    Bits,
    Data,
    Device,
    DeviceMemory,
    DryRun,
    Elsewhere,
    Force,
    Keep,
    KeepUnused,
    Log,
    OptionalOut,
    PassPrecision,
    Quiet,
    RunFolderPath,
    SetOptions,
    StartFrom,
    Threads,
    Time,
    Wandb,
    WandbModel,
    WandbModeName,
    WandbName,
    WandbTags,
    one_or_more,
    wandb_run,
)

if TYPE_CHECKING:
    from ..engine import Chain

_CHAIN = "A predefined chain, see `birdbone chains`; not needed with --recipe."
_IMPORT = "A Python module whose links the recipe may use as MODULE:NAME; repeatable."
_TARGET = "Fraction of the parameters to keep, for chains with waves."
_STOP_LOSS = "Maximum relative rise in perplexity over the dense model, for chains with waves."


def run_command(
    chain: Annotated[str | None, typer.Argument(metavar="CHAIN", help=_CHAIN)] = None,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    out: OptionalOut = None,
    data: Data = None,
    elsewhere: Elsewhere = None,
    time: Time = None,
    assignments: SetOptions = None,
    recipe: Annotated[Path | None, typer.Option(help="A chain written in YAML.")] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help=_IMPORT)
    ] = None,
    target: Annotated[float | None, typer.Option(help=_TARGET)] = None,
    stop_loss: Annotated[float | None, typer.Option(help=_STOP_LOSS)] = None,
    bits: Bits = None,
    keep_unused: KeepUnused = None,
    force: Force = False,
    run_folder: RunFolderPath = None,
    keep: Keep = True,
    start_from: StartFrom = None,
    dry_run: DryRun = False,
    device_memory: DeviceMemory = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log: Log = None,
    wandb: Wandb = None,
    wandb_name: WandbName = None,
    wandb_tags: WandbTags = None,
    wandb_mode: WandbModeName = None,
    wandb_model: WandbModel = False,
    threads: Threads = None,
    device: Device = None,
    activations: ActivationsPlace = None,
    precision: PassPrecision = None,
) -> None:
    """Run a chain on a model, and print what it saved and what it cost."""
    shortcuts = {
        "target": target,
        "stop-loss": stop_loss,
        "bits": bits,
        "elsewhere": one_or_more(elsewhere),
        "time": time,
        "keep-unused": keep_unused,
        "device": device,
        "activations": activations,
        "precision": precision,
    }

    def assemble() -> Chain:
        assembled = _assemble(
            chain, recipe, imports or [], model=model, out=out, data=one_or_more(data)
        )
        return configured(assembled, assignments or [], shortcuts, force=force)

    how = Execution(
        run_folder=run_folder,
        keep=keep,
        start_from=start_from,
        dry_run=dry_run,
        device_memory=device_memory,
        as_json=as_json,
        quiet=quiet,
        log=log,
        wandb=wandb_run(wandb, wandb_name, wandb_tags, wandb_mode, wandb_model),
        threads=threads,
    )
    execute(assemble, how)


def _assemble(
    name: str | None,
    recipe: Path | None,
    imports: list[str],
    *,
    model: str | None,
    out: str | None,
    data: str | tuple[str, ...] | None,
) -> Chain:
    from ..chains import CHAINS, build, load_recipe

    if recipe is not None:
        loaded = load_recipe(recipe, imports=imports)
        if name is not None and name != loaded.chain:
            raise typer.BadParameter(f"the recipe is not of chain '{name}'; leave CHAIN out")
        return build(loaded, model=model, out=out, data=data)
    if imports:
        raise typer.BadParameter("--import is for the links of a recipe; give --recipe FILE too")
    if name is None:
        raise typer.BadParameter(f"give CHAIN, one of {', '.join(CHAINS)}, or --recipe FILE")
    if name not in CHAINS:
        raise SettingError(f"there is no chain '{name}'; {did_you_mean(name, CHAINS)}")
    if model is None or out is None:
        raise typer.BadParameter(f"chain '{name}' needs --model and --out")
    if data is None:
        return CHAINS[name](model=model, out=out)
    return CHAINS[name](model=model, out=out, data=data)
