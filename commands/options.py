"""Options shared by several commands, and how a command prints its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import SettingError

if TYPE_CHECKING:
    from rich.console import RenderableType

MODEL = "Hub id, folder, .gguf file, or package:NAME/FILE.gguf."
_DATA = (
    "Text: a file, folder or glob, hf:DATASET[:CONFIG[:SPLIT]], self (sampled from the model), or "
    "built in: pydoc, stdlib, readmes. By default a mixture of self, pydoc and stdlib. Repeatable; "
    "a weight follows a colon, as in chat.jsonl:2."
)
_ELSEWHERE = (
    "Evaluation text from another source, repeatable; by default a built-in text that is not used."
)
_OUT = "Folder to write; a name that ends in .gguf is a single file."
_FORCE = "Replace the output even if birdbone did not write it."
_RUN = "Keep finished links in this folder, and resume from what it holds."
_KEEP = (
    "Without --run: keep finished links in OUT.run until the run has ended well, so that the same "
    "command resumes; on by default."
)
_FROM = "Run this link and those after it again; those before it are replayed and never run."
_DRY = (
    "Print the expected time, memory and disk of each link, and run nothing. The model may be the "
    "path of a config.json."
)
_DEVICE_MEMORY = (
    "With --dry-run: estimate for an accelerator with this much memory, such as 80GB, in place of "
    "this machine; times stay those of this machine."
)
_DEVICE = "Device to compute on, such as cpu, cuda or cuda:1; by default the accelerator if any."
_ACTIVATIONS = "Where hidden states rest between blocks, on an accelerator; auto by room."
_PRECISION = (
    "Of matrix products in the passes over calibration text on a CPU; auto is bfloat16 on "
    "processors that multiply it faster. Perplexities are always computed in float32."
)
_UNUSED = "Carry tensors that the transformers class has no parameters for; on by default."
_TIME = "Time for each healing, such as 30min: more text is sampled from the model to fill it."
_PRESET = "How much time to spend for how good a result."
_WANDB_MODE = "offline writes the W&B run to ./wandb for `wandb sync`; default WANDB_MODE."
_WANDB_MODEL = "Upload all files of the saved model to W&B, not its card and records alone."
_SET = "Change a setting of a link; repeatable."

ActivationsPlace = Annotated[
    Literal["auto", "host", "device"] | None,
    typer.Option("--activations", help=_ACTIVATIONS, show_default=False),
]
PassPrecision = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option("--precision", help=_PRECISION, show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Bits = Annotated[int | None, typer.Option(help="Bits per weight, for chains that quantize.")]
Data = Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_DATA)]
Device = Annotated[str | None, typer.Option(metavar="NAME", help=_DEVICE, show_default=False)]
DeviceMemory = Annotated[
    str | None,
    typer.Option("--device-memory", metavar="SIZE", help=_DEVICE_MEMORY, show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help=_DRY)]
Elsewhere = Annotated[list[str] | None, typer.Option(metavar="SOURCE", help=_ELSEWHERE)]
Force = Annotated[bool, typer.Option("--force", help=_FORCE)]
KeepUnused = Annotated[
    bool | None, typer.Option("--keep-unused/--no-keep-unused", help=_UNUSED, show_default=False)
]
Keep = Annotated[bool, typer.Option("--keep/--no-keep", help=_KEEP, show_default=False)]
LogFormat = Literal["json", "console"]
Log = Annotated[LogFormat | None, typer.Option(help="Write structured log lines to stderr.")]
Out = Annotated[str, typer.Option(metavar="PATH", help=_OUT)]
OptionalOut = Annotated[str | None, typer.Option(metavar="PATH", help=_OUT)]
PresetName = Annotated[Literal["fast", "balanced", "best"], typer.Option(help=_PRESET)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no times.")]
RunFolderPath = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help=_RUN, show_default=False)
]
StartFrom = Annotated[
    str | None, typer.Option("--from", metavar="LINK", help=_FROM, show_default=False)
]
SetOptions = Annotated[
    list[str] | None, typer.Option("--set", metavar="LINK.SETTING=VALUE", help=_SET)
]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads.")]
Time = Annotated[str | None, typer.Option(metavar="DURATION", help=_TIME)]
Wandb = Annotated[
    str | None, typer.Option(metavar="PROJECT", help="Log to this Weights & Biases project.")
]
WandbMode = Literal["online", "offline"]
WandbModeName = Annotated[
    WandbMode | None, typer.Option("--wandb-mode", help=_WANDB_MODE, show_default=False)
]
WandbModel = Annotated[bool, typer.Option("--wandb-model", help=_WANDB_MODEL)]
WandbName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the W&B run.", show_default=False)
]
WandbTags = Annotated[
    str | None, typer.Option(metavar="TAG,TAG", help="Tags of the W&B run.", show_default=False)
]


@dataclass(frozen=True)
class WandbRun:
    """The W&B run that a command logs to."""

    project: str
    name: str | None = None
    tags: tuple[str, ...] = ()
    mode: WandbMode | None = None
    model_files: bool = False


def wandb_run(
    project: str | None, name: str | None, tags: str | None, mode: WandbMode | None, files: bool
) -> WandbRun | None:
    """The W&B run of the options; None without a project.

    Raises:
        SettingError: an option of W&B without ``--wandb``.
    """
    if project is not None:
        split = (tag.strip() for tag in (tags or "").split(","))
        return WandbRun(project, name, tuple(tag for tag in split if tag), mode, files)
    given = {"name": name, "tags": tags, "mode": mode, "model": files}
    for option, value in given.items():
        if value:
            raise SettingError(f"--wandb-{option} needs --wandb PROJECT, which turns W&B on")
    return None


def answer(
    document: Mapping[str, Any], report: Callable[[], RenderableType], *, as_json: bool
) -> None:
    """Print the document as JSON, or as the report for people."""
    from ..reports.terminal import show

    print_json(document) if as_json else show(report())


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a document as JSON on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def one_or_more(values: list[str] | None) -> str | tuple[str, ...] | None:
    """The values of a repeatable option: None, one value, or a tuple of several."""
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)
