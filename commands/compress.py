"""``birdbone compress MODEL --out PATH``: short form of the chain bird-bone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

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
    Out,
    PassPrecision,
    PresetName,
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

_TARGET = "Fraction of the parameters to keep; the preset decides if it is not given."
_STOP_LOSS = "Maximum relative rise in perplexity over the dense model."


def compress(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    out: Out,
    preset: PresetName = "balanced",
    target: Annotated[float | None, typer.Option(help=_TARGET)] = None,
    stop_loss: Annotated[float | None, typer.Option(help=_STOP_LOSS)] = None,
    bits: Bits = None,
    data: Data = None,
    elsewhere: Elsewhere = None,
    time: Time = None,
    assignments: SetOptions = None,
    force: Force = False,
    run_folder: RunFolderPath = None,
    keep: Keep = True,
    start_from: StartFrom = None,
    dry_run: DryRun = False,
    device_memory: DeviceMemory = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
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
    """Prune neurons, train to recover, and quantize a model.

    The estimated time on this machine is printed before the run starts. --preset fast removes 10 %
    of the parameters with little training; best removes as much as the stop loss allows, which
    takes hours. Try `birdbone quantize` first: at the same size it is often better. The same chain
    with more options: birdbone run bird-bone.
    """

    def assemble() -> Chain:
        from ..chains.presets import preset_chain

        chain = preset_chain("bird-bone", preset, model=model, out=out, data=one_or_more(data))
        options = {
            "target": target,
            "stop-loss": stop_loss,
            "bits": bits,
            "elsewhere": one_or_more(elsewhere),
            "device": device,
            "activations": activations,
            "precision": precision,
            "time": time,
        }
        return configured(chain, assignments or [], options, force=force)

    how = Execution(
        run_folder=run_folder,
        keep=keep,
        start_from=start_from,
        dry_run=dry_run,
        device_memory=device_memory,
        as_json=as_json,
        quiet=quiet,
        wandb=wandb_run(wandb, wandb_name, wandb_tags, wandb_mode, wandb_model),
        threads=threads,
    )
    execute(assemble, how)
