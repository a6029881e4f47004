"""Quantising the linears on one input by GPTQ: stacked, with one factorisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...checkpoints import Checkpoint, GgmlBlocks, Quantized
from ...checkpoints.coded import InputActivations
from ...contexts.layer_errors import error_metrics
from ...engine import announce
from ...errors import SolverError
from ...formats.ggml_blocks import kind_of_grid, pack
from ...models.blocks.device import stored_dtype
from ...models.blocks.linears import Linear, named
from ...models.passes.rewriting import Solution, Solved
from ...models.passes.stacking import stacked
from ...models.passes.tuning import Tuned, Tuning, tune_block
from ...solvers.factor import Factor, factorize
from ...solvers.float4 import float4_name
from ...solvers.gptq import Order, quantize_gptq
from ...solvers.gram import Gram
from ...solvers.grid import Grid
from ...solvers.grid_search import ScaleRule
from ...solvers.masks import is_pruned
from ...solvers.results import QuantizedWeight
from ...solvers.target import target_weight
from .grids import Grids
from .low_rank import Correcting


@dataclass(frozen=True)
class Rounded:
    """The record of a quantised linear.

    Attributes:
        relative_error: of its output on the calibration inputs, squared.
        escalations: how often the damping of its Hessian was raised tenfold.
        borrowed_tokens: tokens of other experts' inputs in its Hessian.
        corrected_error: the error with its low-rank correction; None without one.
    """

    relative_error: float
    escalations: int
    borrowed_tokens: int
    corrected_error: float | None = None


@dataclass(frozen=True)
class Rounding:
    """Quantises linears by GPTQ; called by the pass over the blocks.

    Attributes:
        grids: the grid of every linear.
        packable: whether a format that loads plainly holds such codes; if not, the values they
            stand for are stored.
        matching: fraction of the upstream error each linear corrects.
        correcting: finds low-rank corrections; None without them.
        rounded: records by linear, filled as they are done.
    """

    checkpoint: Checkpoint
    grids: Grids
    packable: bool
    damping: float
    order: Order
    scales: ScaleRule
    refit: bool
    sweeps: int
    matching: float
    correcting: Correcting | None = None
    rounded: dict[str, Rounded] = field(default_factory=dict)

    def chooses(self, linear: Linear) -> bool:
        """Whether a linear is quantised."""
        return (self.grids.packs(linear) or not self.packable) and self.grids.quantises(linear)

    def facts(self) -> Any:
        """The records so far, to resume from."""
        return {name: asdict(each) for name, each in self.rounded.items()}

    def recall(self, facts: Any) -> None:
        """Restore the records of an interrupted pass."""
        self.rounded.update({name: Rounded(**each) for name, each in facts.items()})

    def metrics(self) -> Mapping[str, Any]:
        """The errors, their mean and the worst, and counts of unusual cases."""
        every = self.rounded.values()
        left = [each.corrected_error for each in every if each.corrected_error is not None]
        return {
            **({"mean_corrected_error": sum(left) / len(left)} if left else {}),
            **error_metrics({name: each.relative_error for name, each in self.rounded.items()}),
            "experts_topped_up": sum(each.borrowed_tokens > 0 for each in every),
            "dampings_raised": sum(each.escalations > 0 for each in every),
        }

    def __call__(
        self, weights: Sequence[tuple[Linear, Tensor]], gram: Gram
    ) -> Mapping[Linear, Solution]:
        """The integers of each linear, or dequantised values if they cannot be packed."""
        try:
            factor = factorize(gram, damping=self.damping, descending=self.order == "static")
        except SolverError as error:
            raise named(weights[0][0], error) from error
        stacks: dict[Grid, list[tuple[Linear, Tensor]]] = {}
        for linear, weight in weights:
            stacks.setdefault(self.grids.of(linear), []).append((linear, weight))
        solved: dict[Linear, Solution] = {}
        for grid, stack in stacks.items():
            solved.update(self._solve(stack, grid, gram, factor))
        return solved

    def _solve(
        self, weights: Sequence[tuple[Linear, Tensor]], grid: Grid, gram: Gram, factor: Factor
    ) -> Mapping[Linear, Solution]:
        """Solve the linears of one grid, stacked."""
        linears = [linear for linear, _ in weights]
        whole = stacked(weights)
        try:
            codes = quantize_gptq(
                whole,
                gram,
                grid=grid,
                scale_dtype=scale_dtype(grid, self.checkpoint, linears[0]),
                mask=mask_of([weight for _, weight in weights]),
                factor=factor,
                matching=self.matching,
                order=self.order,
                scales=self.scales,
                refit=self.refit,
                sweeps=self.sweeps,
            )
            left = self._left(weights, whole, codes, gram, factor)
        except SolverError as error:
            raise named(linears[0], error) from error
        how = Rounded(codes.relative_error or 0.0, codes.escalations, gram.num_borrowed)
        names = [linear.name for linear in linears]
        self.rounded.update({name: replace(how, corrected_error=left.get(name)) for name in names})
        return dict(
            zip(
                linears,
                split_experts(
                    codes,
                    linears,
                    packable=self.packable,
                    input_activations=self.grids.input_activations,
                ),
                strict=True,
            )
        )

    def _left(
        self,
        weights: Sequence[tuple[Linear, Tensor]],
        whole: Tensor,
        codes: QuantizedWeight,
        gram: Gram,
        factor: Factor,
    ) -> Mapping[str, float]:
        """The error of each linear with its low-rank correction; empty without, as for experts."""
        if self.correcting is None or weights[0][0].expert is not None:
            return {}
        target = target_weight(whole, gram, factor, matching=self.matching)
        return self.correcting(weights, target, codes.dequantize(), gram)


@dataclass(frozen=True)
class BlockTuning:
    """Signround: tunes the rounding of each block as a whole after GPTQ.

    Attributes:
        tuned: the record of each block, filled as they are done.
    """

    tuning: Tuning
    tuned: list[Tuned] = field(default_factory=list)

    def facts(self) -> Any:
        """The records so far, without the integers, which the pass keeps."""
        return [
            [each.loss_before, each.loss_after, each.iteration, each.changed_share]
            for each in self.tuned
        ]

    def recall(self, facts: Any) -> None:
        """Restore the records of an interrupted pass."""
        self.tuned.extend(Tuned({}, *each) for each in facts)

    def __call__(self, solved: Solved) -> Mapping[Linear, Solution]:
        found = tune_block(
            solved,
            self.tuning,
            announce=lambda done, total: announce("tuning a block", done, total),
        )
        self.tuned.append(found)
        return found.solutions

    def metrics(self) -> Mapping[str, float]:
        """Means over the blocks: loss on held-out windows, and fraction of integers changed."""
        count = len(self.tuned)
        return {
            "block_loss_before": sum(each.loss_before for each in self.tuned) / count,
            "block_loss_after": sum(each.loss_after for each in self.tuned) / count,
            "codes_changed": sum(each.changed_share for each in self.tuned) / count,
        }


def scale_dtype(grid: Grid, checkpoint: Checkpoint, linear: Linear) -> torch.dtype:
    """The dtype of scales: the grid's own, or the model's."""
    return grid.scale_dtype or stored_dtype(checkpoint, checkpoint.refs[linear.tensor])


def mask_of(weights: Sequence[Tensor]) -> Tensor | None:
    """Mask of the weights of a stack that are not zeros of pruned matrices."""
    pruned = [is_pruned(weight) for weight in weights]
    if not any(pruned):
        return None
    return torch.cat(
        [
            weight != 0 if thin else torch.ones_like(weight, dtype=torch.bool)
            for weight, thin in zip(weights, pruned, strict=True)
        ]
    )


def split_experts(
    codes: QuantizedWeight,
    linears: Sequence[Linear],
    *,
    packable: bool,
    input_activations: InputActivations | None = None,
) -> list[Solution]:
    """The solution of each layer of a stack, in its order.

    On a grid of ggml's they are its blocks, but for experts: those are a part of a tensor.
    """
    heights = [linear.shape[0] for linear in linears]
    kind = kind_of_grid(codes.grid)
    if kind and all(linear.expert is None for linear in linears):
        blocks = pack(codes).cpu().split(heights)
        return [
            GgmlBlocks(part.clone(), kind=kind, transposed=linear.transposed)
            for part, linear in zip(blocks, linears, strict=True)
        ]
    if not packable:
        return list(codes.dequantize().split(heights))
    parts = (each.cpu().split(heights) for each in (codes.codes, codes.scales))
    float4 = float4_name(codes.grid)
    # Codes are twice the numbers, and a stored scale is divided by the global one.
    divisor = torch.tensor([0.5 / codes.grid.scale_unit]) if float4 == "nvfp4" else None
    return [
        Quantized(
            part.contiguous(),
            scales.contiguous(),
            bits=codes.grid.bits,
            input_activations=input_activations,
            float4=float4,
            global_scale=divisor,
        )
        for part, scales in zip(*parts, strict=True)
    ]
