"""The settings of quantize, what they resolve to, and which of them a method uses."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal, get_args

from pydantic import Field
from typing_extensions import TypedDict

from ...checkpoints.coded import Float4, InputActivations
from ...engine import BatchSize, Settings
from ...errors import SettingError
from ...solvers.gptq import Order
from ...solvers.grid import NamedGrid
from ...solvers.grid_search import ScaleRule

QuantizeMethod = Literal["auto", "gptq", "signround", "rtn", "nf4", "nf4.single", "llm.int8"]
GridName = Literal["int", "fp8", Float4, "allocated", NamedGrid]

FLOAT4: tuple[Float4, ...] = get_args(Float4)
"""Grids of 4-bit floats."""

PACKED_GRIDS = ("int", "fp8", *FLOAT4)
"""Grids whose codes a folder of compressed-tensors holds."""

CALIBRATED = ("gptq", "signround")
"""Methods that use the inputs of the linears on calibration text."""

BITSANDBYTES = ("nf4", "nf4.single", "llm.int8")
"""Methods of bitsandbytes, which quantises when the folder is written."""

# Measured best of 0 and 0.5 on whole models.
_MATCHING = 0.5


class GridOverride(TypedDict, total=False):
    """Bits and group size of some linears, or their format of ggml; what is absent is as in the
    settings."""

    grid: NamedGrid
    bits: Annotated[int, Field(ge=2, le=8)]
    group_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None


class QuantizeSettings(Settings):
    """The settings of quantize."""

    bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Bits per weight."""

    group_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = 64
    """Input columns that share a scale; must divide every width. auto: for each layer the largest
    of 128, 64, 32 and 16 that divides its width, otherwise one scale per row; null: one scale per
    row for every layer."""

    ignore: tuple[str, ...] = ()
    """Name patterns of linears that are not quantised, such as ``*.down_proj``; ``*`` stands for
    any characters. A pattern that matches no linear is an error."""

    overrides: dict[str, GridOverride] | None = None
    """Bits and group size of linears by name pattern, such as ``{"*.down_proj": {"bits": 8}}``, or
    with a grid of ggml that of some, ``{"*.down_proj": {"grid": "q8_0"}}``; the first match counts.
    vLLM needs the same grid for q, k and v of a block, and for gate and up."""

    embedding_bits: Literal[8] | None = None
    """Bits of the embedding and the output head: 8, one scale per row (token), rounded to nearest;
    null leaves them in the dtype of the model. A tied head is stored once. Loads in transformers;
    a GGUF file holds it as Q8_0; vLLM 0.32 refuses it beside rounded inputs, and was not tried
    with others."""

    embedding_grid: NamedGrid | None = None
    """With a grid of ggml: the format of the embedding in a GGUF file, rounded to nearest; null
    leaves it to save, which uses q6_k if it is the head too, and the type of the linears if not."""

    head_grid: NamedGrid | None = None
    """The same of an output head that is not tied to the embedding."""

    symmetric: bool = True
    """No zero points. Only symmetric weights are stored as integers."""

    signed: bool | None = None
    """Allow negative scales for symmetric weights, so that the extra negative integer covers the
    larger extreme; takes no extra bytes. By default on for gptq and signround, off for rtn and
    where inputs are rounded too."""

    grid: GridName = "int"
    """int, as set above; fp8, float8_e4m3fn with one scale per row or per block (block_size),
    rounded to nearest; mxfp4 and nvfp4, 4-bit floats in groups of 32 with powers of two as scales,
    and of 16 with float8 scales; or a format of ggml, which fixes all of these. For layers whose
    width is not a multiple of 256, iq4_nl replaces q2_k and q3_k, q5_0 q4_k and q5_k, and q8_0
    q6_k. allocated: those that allocate chose, integers or formats of ggml."""

    block_size: Annotated[int, Field(ge=1)] | None = None
    """With grid='fp8': rows and columns of a weight that share a scale; must divide every width.
    Servers have kernels for 128, the blocks of DeepSeek-V3. null: one scale per row."""

    input_activations: InputActivations | None = None
    """Round the inputs of the quantised linears too, each token with a scale found when it is
    computed (dynamic), as servers do for faster products: int8, with bits=8 and group_size=null
    (W8A8), or fp8, with grid='fp8' (FP8 dynamic). With block_size, each block_size features of a
    token have a scale of their own. Every measurement includes this rounding. Saved by
    compressed-tensors; llama.cpp rounds inputs in its own way, so no GGUF file has them."""

    method: QuantizeMethod = "auto"
    """gptq (2210.17323), which needs calibration windows; signround (2309.05516), which starts from
    gptq and tunes the rounding of a block by gradients, much slower; rtn, round to nearest; nf4 and
    llm.int8 of bitsandbytes, which fix bits and group size (nf4 also quantises its scales to 8
    bits, nf4.single keeps them in float32). auto: gptq if the context has calibration windows,
    otherwise rtn; the history records which."""

    order: Order = "static"
    """Column order of gptq: by descending input energy (static), or as stored (natural)."""

    scales: ScaleRule | None = None
    """searched for the least error, or minmax, set by the extremes. By default searched for gptq
    and minmax for rtn."""

    refit: bool = False
    """Refit the scales of gptq to its integers, using the whole Hessian."""

    sweeps: Annotated[int, Field(ge=0)] = 0
    """Passes of coordinate descent over the integers of gptq."""

    matching: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of the upstream error each linear corrects (0 = none, 1 = all): the error that
    quantising earlier blocks caused (2504.02692). Costs a third run of every block; reduced if
    there are fewer than 20 tokens per input channel. By default 0.5 for gptq and signround; other
    methods do not support it."""

    damping: Annotated[float, Field(gt=0)] = 0.01
    """Added to the diagonal of the Hessian in gptq, relative to its mean."""

    rank: Annotated[int, Field(ge=0)] = 0
    """Rank of a low-rank correction of each linear's output error (2410.21271), beside the integers
    of gptq, which do not change. Saved as a LoRA adapter in the folder adapter/ of the model, to be
    loaded with PEFT; the model loads, and is measured, without it. It is dense: with the adapter,
    pruned weights are no longer zero."""

    iterations: Annotated[int, Field(ge=1)] = 200
    """Steps of signround per block, on batch_size windows each."""

    seed: int = 0
    """Seed of the order in which signround uses the windows."""

    batch_size: BatchSize = 4
    """Windows per forward pass; halved where the device has no memory left."""


def resolved(settings: QuantizeSettings, *, calibrated: bool) -> QuantizeSettings:
    """The settings with method, signed and matching decided.

    Raises:
        SettingError: the method needs calibration windows and there are none.
    """
    method = settings.method
    if method == "auto" and settings.grid == "fp8":
        method = "rtn"
    if method == "auto" and not calibrated:
        warnings.warn(
            "quantize rounds to nearest, since the context has no calibration windows; calibrate() "
            "before it gives better weights, and method='rtn' accepts this without a warning",
            stacklevel=2,
        )
    if method == "auto":
        method = "gptq" if calibrated else "rtn"
    elif method in CALIBRATED and not calibrated:
        raise SettingError(
            f"quantize(method='{method}') needs 'calibration'; calibrate() provides it, or use "
            "method='rtn'"
        )
    signed = settings.signed
    if signed is None:
        signed = method in CALIBRATED and settings.input_activations is None
    return settings.model_copy(
        update={"method": method, "signed": signed, "matching": matching_of(settings)}
    )


def matching_of(settings: QuantizeSettings) -> float:
    """The fraction of the upstream error that gptq and signround correct."""
    return _MATCHING if settings.matching is None else settings.matching


def packs_codes(settings: QuantizeSettings) -> bool:
    """Whether the codes are stored as such: symmetric integers on the grid int, or small floats."""
    return settings.symmetric and settings.grid in PACKED_GRIDS
