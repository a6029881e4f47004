"""``birdbone quantize MODEL --out PATH``: short form of the chain quantize-only."""

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

_HEAL = (
    "Then train the scales of the weights, so that the model's outputs come closer to the "
    "original's; its size does not change. Needs the whole model in memory, and more time."
)


def quantize_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    out: Out,
    preset: PresetName = "balanced",
    bits: Bits = None,
    heal: Annotated[bool, typer.Option("--heal", help=_HEAL)] = False,
    data: Data = None,
    elsewhere: Elsewhere = None,
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
    """Quantize a model to 4 bits, or --bits, with calibration; every weight is kept.

    The estimated time on this machine is printed before the run starts. --preset fast calibrates on
    less text; best also tunes the rounding by gradients, which takes several times as long. The
    same chain with more options: birdbone run quantize-only.
    """

    def assemble() -> Chain:
        from ..chains.healing import with_healed_scales
        from ..chains.presets import preset_chain

        chain = preset_chain("quantize-only", preset, model=model, out=out, data=one_or_more(data))
        if heal:
            chain = with_healed_scales(chain)
        options = {
            "bits": bits,
            "elsewhere": one_or_more(elsewhere),
            "device": device,
            "activations": activations,
            "precision": precision,
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
