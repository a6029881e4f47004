"""What a finished quantisation still leaves: better scales for its codes, better codes for them.

Both minimise ||X(W - V)'||^2 + damping ||W - V||^2 = sum over rows of e H e', e a row of V - W and
H = X'X damped as in `factor`, and neither ever makes it worse.

`refit_scales`, codes held: V is linear in a row's scales, so their best change d solves A d = b
with A_gk = u_g' H_gk u_k and b_g = -u_g' (e H)_g, u the codes less the zero point. What is stored
is rounded, and a row that rounding would make worse keeps the scales it has.

`descend_codes`, scales held: cyclic coordinate descent. With the rest held, the best value of
column j is v_j - (e H)_j / H_jj, and the best code the nearest to it. A span of columns sees the
changes of all others through one product at its start, and passes its own changes on to itself.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_mask, require_weight, require_width
from .column_loop import SPANS, walk
from .damping import mean_live_diagonal
from .factor import decoupled
from .gram import Gram
from .results import QuantizedWeight

# Relative to A's mean diagonal; it only shortens the step, since what is solved for is a change.
_RIDGE = 1e-5
# Numbers of a chunk's systems [rows, groups, groups] at a time.
_NUMBERS_PER_CHUNK = 1 << 22


def refine(
    weight: Tensor,
    quantized: QuantizedWeight,
    gram: Gram,
    *,
    damping: float = 0.01,
    mask: Tensor | None = None,
    refit: bool = True,
    sweeps: int = 1,
) -> QuantizedWeight:
    """Return ``quantized`` with less damped output error against ``weight`` [out, in].

    Scales are refitted (unless not ``refit``) before each of ``sweeps`` passes over the codes, and
    after the last; it stops where a pass finds no code to change. Where ``mask`` is False codes are
    left as they are. Scales of super-blocks are never refitted. ``relative_error`` of the result is
    None. Raises SettingError for arguments that do not fit.
    """
    if sweeps < 0:
        raise SettingError(f"sweeps {sweeps} is out of range; give 0 or more")
    _require_fit(weight, quantized, gram, mask)
    hessian = damped_hessian(gram, damping)
    refit = refit and quantized.super_blocks is None
    quantized = replace(quantized, relative_error=None)
    if refit:
        quantized = _refitted(weight, quantized, hessian)
    for _ in range(sweeps):
        before = quantized.codes
        quantized = _descended(weight, quantized, hessian, mask)
        changed = (quantized.codes != before).any(dim=1, keepdim=True)
        if not changed.any():
            break
        if refit:  # a row that has settled stays, so that no row heeds what it is stacked with
            scales = _refitted(weight, quantized, hessian).scales
            quantized = replace(quantized, scales=torch.where(changed, scales, quantized.scales))
    return quantized


def refit_scales(
    weight: Tensor, quantized: QuantizedWeight, gram: Gram, *, damping: float = 0.01
) -> QuantizedWeight:
    """Return ``quantized`` with the best scales for its codes; zero points stay."""
    return refine(weight, quantized, gram, damping=damping, sweeps=0)


def descend_codes(
    weight: Tensor,
    quantized: QuantizedWeight,
    gram: Gram,
    *,
    damping: float = 0.01,
    mask: Tensor | None = None,
    sweeps: int = 1,
) -> QuantizedWeight:
    """Return ``quantized`` with better codes for its scales, masked ones left as they are."""
    return refine(weight, quantized, gram, damping=damping, mask=mask, refit=False, sweeps=sweeps)


def damped_hessian(gram: Gram, damping: float) -> Tensor:
    """Return H with ``damping`` times its mean live diagonal added, as `factorize` damps it."""
    hessian, _ = decoupled(gram)
    hessian.diagonal().add_(damping * mean_live_diagonal(gram))
    return hessian


def _require_fit(
    weight: Tensor, quantized: QuantizedWeight, gram: Gram, mask: Tensor | None
) -> None:
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    if mask is not None:
        require_mask(weight, mask)
    if quantized.codes.shape != weight.shape:
        raise SettingError(
            f"weight {tuple(weight.shape)} and codes {tuple(quantized.codes.shape)} do not fit; "
            "give the weight that was quantised"
        )


def _refitted(weight: Tensor, quantized: QuantizedWeight, hessian: Tensor) -> QuantizedWeight:
    num_groups = quantized.scales.shape[1]
    # Two matrices of a row's width are needed beside its system.
    per_row = max(num_groups * num_groups, 2 * weight.shape[1])
    chunk = max(_NUMBERS_PER_CHUNK // per_row, 1)
    scales = [
        _refit_rows(
            weight[rows].detach().to(hessian.dtype),
            _steps(quantized, rows, hessian.dtype),
            quantized.scales[rows],
            hessian,
            signed=quantized.grid.signed,
        )
        for rows in _slices(weight.shape[0], chunk)
    ]
    return replace(quantized, scales=torch.cat(scales))


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _steps(quantized: QuantizedWeight, rows: slice, dtype: torch.dtype) -> Tensor:
    """Return codes less zero points, [rows, groups, columns]."""
    codes = quantized.codes[rows]
    steps = codes.view(codes.shape[0], quantized.scales.shape[1], -1).to(dtype)
    if quantized.zero_points is not None:
        steps -= quantized.zero_points[rows].unsqueeze(-1).to(dtype)
    return steps


def _refit_rows(
    weight: Tensor, steps: Tensor, scales: Tensor, hessian: Tensor, *, signed: bool
) -> Tensor:
    """Return better scales [rows, groups] for ``steps`` [rows, groups, columns]."""
    now = scales.to(hessian.dtype)
    error = (steps * now.unsqueeze(-1)).view(weight.shape).sub_(weight)
    slopes = (error @ hessian).view(steps.shape).mul_(steps).sum(-1)
    systems = _systems(steps, hessian)
    changed = (now + _solved(systems, -slopes)).to(scales.dtype)
    usable = torch.isfinite(changed) & ((changed != 0) if signed else (changed > 0))
    changed = torch.where(usable, changed, scales)
    change = changed.to(hessian.dtype) - now
    curvature = (systems @ change.unsqueeze(-1)).squeeze(-1)
    gained = (change * (curvature + 2 * slopes)).sum(-1, keepdim=True) < 0
    return torch.where(gained, changed, scales)


def _systems(steps: Tensor, hessian: Tensor) -> Tensor:
    """Return A, [rows, groups, groups]: the upper half computed, the rest by symmetry."""
    rows, num_groups, size = steps.shape
    systems = steps.new_zeros(rows, num_groups, num_groups)
    for group in range(num_groups):
        start = group * size
        products = steps[:, group] @ hessian[start : start + size, start:]
        products = products.view(rows, num_groups - group, size).mul_(steps[:, group:])
        systems[:, group, group:] = products.sum(-1)
    return systems + systems.triu(1).mT


def _solved(systems: Tensor, wanted: Tensor) -> Tensor:
    """Return x with systems x = wanted, 0 in rows whose system float arithmetic cannot solve."""
    diagonal = systems.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * diagonal.mean(1, keepdim=True) + (diagonal == 0)
    lower, info = torch.linalg.cholesky_ex(systems + torch.diag_embed(ridge))
    solved = torch.cholesky_solve(wanted.unsqueeze(-1), lower).squeeze(-1)
    return torch.where((info == 0).unsqueeze(1), solved, 0.0)


def _descended(
    weight: Tensor, quantized: QuantizedWeight, hessian: Tensor, mask: Tensor | None
) -> QuantizedWeight:
    """Make one pass over all columns."""
    kept = None if mask is None else mask.T.to(hessian.dtype).contiguous()
    descent = _Descent(weight.detach().to(hessian.dtype), quantized, hessian, kept)
    descent.sweep()
    return replace(quantized, codes=descent.codes.T.to(torch.int8).contiguous())


class _Descent:
    """One pass, on transposed tensors so that a column is contiguous."""

    def __init__(
        self, weight: Tensor, quantized: QuantizedWeight, hessian: Tensor, kept: Tensor | None
    ) -> None:
        dtype = hessian.dtype
        self.codes = quantized.codes.T.to(dtype).contiguous()
        self._kept = kept
        self._grid = quantized.grid
        self._group_width = weight.shape[1] // quantized.scales.shape[1]
        self._scales = quantized.scales.T.to(dtype).contiguous()
        self._errors = (quantized.dequantize(dtype) - weight).T.contiguous()
        # Row j over H_jj, so that a gradient is already the way to the best value.
        self._normal = hessian / hessian.diagonal().unsqueeze(1)
        self._ways = torch.empty_like(self._errors)
        self._changes = torch.empty_like(self._errors)

    def sweep(self) -> None:
        width = self.codes.shape[0]
        for span in _slices(width, SPANS[0]):
            torch.mm(self._normal[span], self._errors, out=self._ways[span])
            walk(self, span.start, min(span.stop, width), SPANS[1:])
            self._errors[span] += self._changes[span]

    def pass_on(self, first: int, last: int, stop: int) -> None:
        self._ways[last:stop].addmm_(self._normal[last:stop, first:last], self._changes[first:last])

    def settle_columns(self, start: int, stop: int) -> None:
        for index in range(start, stop):
            change = self._settle(index)
            if index + 1 < stop:
                rest = self._ways[index + 1 : stop]
                rest.addr_(self._normal[index + 1 : stop, index], change)

    def _settle(self, index: int) -> Tensor:
        """Move a column's codes to the nearest to its best values; return the values' change."""
        codes, change = self.codes[index], self._changes[index]
        scales = self._scales[index // self._group_width]
        torch.div(self._ways[index], scales, out=change)
        torch.sub(codes, change, out=change).round_()
        change.clamp_(self._grid.smallest, self._grid.largest).sub_(codes)
        if self._kept is not None:
            change *= self._kept[index]
        codes += change
        return change.mul_(scales)
