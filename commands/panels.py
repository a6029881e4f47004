"""All commands, by the panel of ``birdbone --help`` that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import typer

from .bench import bench
from .chains import chains
from .compress import compress
from .diff import diff_command
from .doctor import doctor
from .eval import eval_command
from .export import export
from .fit import fit_command
from .gc import gc
from .inspect import inspect
from .links import links
from .log import log
from .plot import plot
from .prove import prove_command
from .push import push
from .quantize import quantize_command
from .report import report_command
from .revert import revert
from .run import run_command
from .sensitivity import sensitivity_command
from .verify import verify_command

PANELS: Mapping[str, tuple[Callable[..., Any], ...]] = MappingProxyType(
    {
        "Make a model": (quantize_command, fit_command, compress, run_command, export, push),
        "Look at models": (
            inspect,
            sensitivity_command,
            bench,
            eval_command,
            prove_command,
            verify_command,
            diff_command,
            plot,
            report_command,
        ),
        "Look at runs": (log, revert, gc),
        "Reference": (chains, links, doctor),
    }
)


def add_commands(app: typer.Typer) -> None:
    """Register every command; functions named like a link or another function have a suffix."""
    for panel, functions in PANELS.items():
        for function in functions:
            name = function.__name__.removesuffix("_command")
            app.command(name, rich_help_panel=panel)(function)
