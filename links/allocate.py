"""allocate: choose the grid of every linear, and of the embedding, within one budget."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from ..checkpoints import Checkpoint
from ..contexts.allocation import Allocation
from ..contexts.flow import Allocatable, Allocating, Partial
from ..contexts.forecast import Forecast
from ..contexts.sensitivity import QuantizedFormat
from ..engine import Settings, changed, in_thread, link
from ..errors import SettingError
from ..formats.llama_cpp import require_llama_cpp
from ..solvers.grid import NamedGrid
from .allocating.budget import (
    budget_bytes,
    cache_bytes,
    check_format,
    check_one_budget,
    read_bytes,
    read_ratio,
    unquantised_bytes,
)
from .allocating.candidates import Choices, allocate_candidates, ladder_candidates
from .allocating.running_speed import measuring_forecast, measuring_machine, running_speeds
from .allocating.runtimes import Limits, Runtime
from .allocating.speed import fast_allocation, guessed_allocation, num_measured

_ROUNDS = 3  # turns in which speeds are measured

NumBytes = Annotated[
    int, BeforeValidator(read_bytes), Field(ge=1), WithJsonSchema({"type": ["integer", "string"]})
]

Ratio = Annotated[
    float,
    BeforeValidator(read_ratio),
    Field(gt=1, allow_inf_nan=False),
    WithJsonSchema({"type": ["number", "string"]}),
]


class AllocateSettings(Settings):
    """The settings of allocate."""

    bytes: NumBytes | None = None
    """Budget: bytes of the weight files, or of the GGUF file, a number or a size such as 80MB."""

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Budget: fraction of the bytes of the weight files of the model as it is, or of its GGUF file
    with plain values; 0.3 if no budget is given."""

    bits: Annotated[float, Field(gt=0)] | None = None
    """Budget: bits per parameter of everything that is stored, embeddings and scales included."""

    memory: NumBytes | None = None
    """Budget: memory of the weights as stored and of the KV cache of one sequence together, a
    number of bytes or a size such as 4GB."""

    context: Annotated[int, Field(ge=1)] | None = None
    """Tokens of the KV cache for ``memory``; 4096 by default, or as many as the model has positions
    if these are fewer."""

    speed: Ratio | None = None
    """Budget of a GGUF file: how many times as many tokens per second as the original it generates
    in llama.cpp on this machine, such as 1.5 or 1.5x, as measured."""

    rise: Annotated[float, Field(gt=0)] | None = None
    """In place of a budget: the largest rise of perplexity on the worse text. The candidates are
    ``steps`` sizes from the smallest to the original, and select finds the smallest that holds."""

    steps: Annotated[int, Field(ge=2)] = 15
    """Number of sizes for ``rise``; select tries about the logarithm to base 2 of it."""

    allowed_bits: tuple[Annotated[int, Field(ge=2, le=8)], ...] | None = None
    """Bits per weight to choose from; by default all that sensitivity estimated."""

    group_sizes: tuple[Annotated[int, Field(ge=1)] | None, ...] | None = None
    """Group sizes to choose from; by default all that sensitivity estimated."""

    embedding_bits: Literal["auto", 8] | None = "auto"
    """Bits of embedding and head in a folder: 8, null for as they are, or auto for the better of
    both."""

    types: tuple[NamedGrid, ...] | None = None
    """ggml types to choose from for a GGUF file, embedding and head included; by default all that
    sensitivity estimated."""

    runtimes: tuple[Runtime, ...] = ("transformers",)
    """Choose only what these were seen to load: transformers loads everything; vllm 4 bits in
    groups of 32 or 64, the same for every linear, without an 8-bit embedding; llama.cpp, after an
    export to GGUF, groups of a multiple of 32. A GGUF file is one for llama.cpp whatever is
    set."""

    variants: Annotated[int, Field(ge=1, le=3)] = 2
    """Number of allocated candidates: by estimated loss; without 2 bits; with losses evened out."""

    uniform: Annotated[int, Field(ge=0)] = 1
    """Number of uniform candidates within the budget, those of least estimated loss."""


@link(AllocateSettings)
async def allocate(ctx: Allocatable, settings: AllocateSettings) -> Allocating:
    """Find ways to store the model within a budget, by estimated loss.

    A multiple-choice knapsack over all linears and the embedding chooses the bits and group sizes
    of the least estimated loss; the sizes are those of the files, to the byte. Beside it are the
    best uniform settings within the same budget. quantize applies the first; select builds all and
    keeps the best as measured. After sensitivity(format="gguf") it chooses ggml types, and sizes
    are those of the GGUF file with header, tokenizer and padding. For a budget of speed, files of
    the same types without values are run by llama.cpp, in turns with the original as an F16 file;
    if none is fast enough, the fastest is the only candidate, and quantize refuses it.

    Raises:
        SettingError: several budgets, one below the smallest size or not below the original, or
            runtimes that load none of the grids.
        ProofError: llama.cpp cannot run the model.
    """
    _warn_of_unused(settings)
    if settings.speed is not None:
        found = await _fast_allocation(ctx, settings, settings.speed)
    else:
        found = await in_thread(_allocation, ctx, settings)
    first = found.current
    return {
        "allocation": found,
        "metrics": {
            **({} if settings.speed is not None else {"budget_bytes": found.budget_bytes}),
            "predicted_bytes": first.num_bytes,
            "estimated_loss": first.loss,
            "candidates": len(found.candidates),
            "exact": found.exact,
            **({} if first.speed is None else {"speed": first.speed}),
            **({"kv_cache_bytes": found.cache_bytes} if settings.memory is not None else {}),
        },
    }


def _warn_of_unused(settings: AllocateSettings) -> None:
    if "steps" in changed(settings) and settings.rise is None:
        warnings.warn(
            f"allocate(steps={settings.steps}) is not used without rise; with a budget, variants "
            f"and uniform set the number of candidates",
            stacklevel=3,
        )
    if settings.context is not None and settings.memory is None:
        warnings.warn(
            f"allocate(context={settings.context}) is not used without memory; other budgets count "
            f"weights alone",
            stacklevel=3,
        )


def _budget(
    checkpoint: Checkpoint, format: QuantizedFormat | None, settings: AllocateSettings
) -> tuple[int, int]:
    """Bytes of the weights, and of the KV cache for a budget of memory."""
    memory, cache = settings.memory, 0
    if memory is not None:
        cache = cache_bytes(checkpoint, memory, settings.context, format)
    budget = budget_bytes(
        checkpoint,
        unquantised_bytes(checkpoint, format),
        num_bytes=settings.bytes,
        ratio=settings.ratio,
        bits=settings.bits,
        memory=memory,
        cache_bytes=cache,
    )
    return budget, cache


def _choices(ctx: Allocatable, settings: AllocateSettings) -> Choices:
    found = ctx["sensitivity"]
    check_format(changed(settings), found.format)
    return Choices(
        ctx["checkpoint"],
        found,
        Limits(("llama.cpp",) if found.format == "gguf" else settings.runtimes),
        settings.allowed_bits,
        settings.group_sizes,
        settings.embedding_bits,
        settings.types,
    )


async def _fast_allocation(
    ctx: Allocatable, settings: AllocateSettings, speed: float
) -> Allocation:
    original = ctx.get("dense", ctx["checkpoint"])

    async def stopwatch(models: Sequence[Checkpoint]) -> list[float]:
        return await running_speeds(original, models, rounds=_ROUNDS)

    return await fast_allocation(
        _choices(ctx, settings),
        speed,
        stopwatch,
        budget_bytes=unquantised_bytes(ctx["checkpoint"], "gguf"),
        variants=settings.variants,
        uniform=settings.uniform,
    )


def _allocation(ctx: Allocatable, settings: AllocateSettings) -> Allocation:
    """The allocation; for a budget of speed, a guess."""
    checkpoint, found = ctx["checkpoint"], ctx["sensitivity"]
    choices = _choices(ctx, settings)
    if settings.speed is not None:
        return guessed_allocation(
            choices,
            settings.speed,
            original_bytes=unquantised_bytes(ctx.get("dense", checkpoint), "gguf"),
            variants=settings.variants,
            uniform=settings.uniform,
        )
    if settings.rise is not None:
        original_bytes = unquantised_bytes(checkpoint, found.format)
        ladder = ladder_candidates(choices, original_bytes, steps=settings.steps)
        return replace(ladder, max_rise=settings.rise)
    budget, cache = _budget(checkpoint, found.format, settings)
    return allocate_candidates(
        choices,
        budget,
        variants=settings.variants,
        uniform=settings.uniform,
        cache_bytes=cache,
    )


@allocate.check
def _check(ctx: Partial, settings: AllocateSettings) -> None:
    """Budgets that contradict each other, or that are not below the original."""
    check_one_budget(
        bytes=settings.bytes,
        ratio=settings.ratio,
        bits=settings.bits,
        memory=settings.memory,
        speed=settings.speed,
        rise=settings.rise,
    )
    if settings.speed is not None:
        require_llama_cpp()
    if not settings.runtimes:
        raise SettingError("allocate(runtimes=()) names no runtime; name at least one")
    checkpoint, found = ctx.get("checkpoint"), ctx.get("sensitivity")
    if found is not None:
        check_format(changed(settings), found.format)
    if checkpoint is not None and settings.rise is None and settings.speed is None:
        _budget(checkpoint, None if found is None else found.format, settings)


@allocate.forecast
def _forecast(ctx: Allocatable, settings: AllocateSettings) -> Forecast:
    """Seconds, unless speed is measured; on estimates that are made up the sizes are still true."""
    adds = {"allocation": _allocation(ctx, settings)}
    if settings.speed is None:
        return Forecast(adds=adds)
    files = 1 + num_measured(_choices(ctx, settings), settings.variants, settings.uniform)
    return replace(measuring_forecast(files, rounds=_ROUNDS), adds=adds, guessed=True)


@allocate.reads
def _reads(settings: AllocateSettings) -> Mapping[str, object] | None:
    """What a measured speed depends on, so that it is measured again on another machine."""
    return None if settings.speed is None else measuring_machine()
