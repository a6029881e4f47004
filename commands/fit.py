"""``birdbone fit MODEL --bytes SIZE --out PATH``: short form of the chain fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .changes import configured
from .execution import Execution, execute
from .options import (
    MODEL,
    AsJson,
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

_BYTES = "Budget: size of the weight files, or of the GGUF file, such as 80MB or 1.5GB."
_RATIO = (
    "Budget: fraction of the weight files of the model, or of its GGUF file with plain values; 0.3 "
    "if no budget is given."
)
_BITS = "Budget: bits per parameter of everything that is stored."
_MEMORY = "Budget: memory of weights and KV cache together, such as 4GB."
_CONTEXT = (
    "Tokens of the KV cache for --memory; 4096 by default, or as many as the model has positions."
)
_SPEED = (
    "Budget of a GGUF file: how many times as many tokens per second as the original it generates "
    "in llama.cpp, such as 1.5x; measured on this machine."
)
_RISE = "In place of a budget: the largest rise of perplexity on the worse text, such as 0.05."
_RUNTIME = (
    "Use only what this runtime was seen to load: transformers (default), vllm or llama.cpp; "
    "repeatable."
)
_REMOVE = (
    "Also try a model without this fraction of the feed-forward neurons, within the same budget; "
    "repeatable. The best of these is tried once more, healed."
)
_HEAL = (
    "Train the scales of the best one, so that its outputs come closer to the original's; its size "
    "does not change. On by default, but for --preset fast."
)


def fit_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    out: Out,
    preset: PresetName = "balanced",
    size: Annotated[str | None, typer.Option("--bytes", metavar="SIZE", help=_BYTES)] = None,
    ratio: Annotated[float | None, typer.Option(help=_RATIO)] = None,
    bits: Annotated[float | None, typer.Option(help=_BITS)] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help=_MEMORY)] = None,
    context: Annotated[int | None, typer.Option(metavar="TOKENS", help=_CONTEXT)] = None,
    speed: Annotated[str | None, typer.Option(metavar="RATIO", help=_SPEED)] = None,
    rise: Annotated[float | None, typer.Option(help=_RISE)] = None,
    runtime: Annotated[list[str] | None, typer.Option(metavar="NAME", help=_RUNTIME)] = None,
    remove: Annotated[list[float] | None, typer.Option(metavar="FRACTION", help=_REMOVE)] = None,
    heal: Annotated[
        bool | None, typer.Option("--heal/--no-heal", help=_HEAL, show_default=False)
    ] = None,
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
    precision: PassPrecision = None,
) -> None:
    """Quantize a model into a size, or to a speed: bits go where they cost least.

    Bits and group sizes of all linears and of the embedding are chosen by estimated loss; for an
    output that ends in .gguf, the ggml types of all matrices of that file. These and the best
    uniform settings within the same budget are built and judged on held-out text and on text from
    elsewhere; the best is saved after its scales were trained. The estimated time is printed before
    the run starts.
    The same chain with more options: birdbone run fit.
    """

    def assemble() -> Chain:
        from ..chains.healing import without_healing
        from ..chains.presets import preset_chain
        from ..chains.removing import with_removal

        chain = preset_chain("fit", preset, model=model, out=out, data=one_or_more(data))
        if remove:
            chain = with_removal(chain, remove)
        heals = preset != "fast" if heal is None else heal
        if not heals:
            chain = without_healing(chain)
        options = {
            "bytes": size,
            "ratio": ratio,
            "average-bits": bits,
            "memory": memory,
            "context": context,
            "speed": speed,
            "rise": rise,
            "runtime": tuple(runtime) if runtime else None,
            "elsewhere": one_or_more(elsewhere),
            "device": device,
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
