"""Improving a finished quantisation: better scales for its codes, better codes for its scales.

Both minimise ||X(W - V)'||^2 + damping ||W - V||^2, the sum over rows of e H e' with e a row of V -
W and H = X'X damped as in `factor`. Neither ever increases it.

`refit_scales` keeps the codes. V is linear in the scales of a row, so the optimal change d of the
scales solves A d = b with A_gk = u_g' H_gk u_k and b_g = -u_g' (e H)_g, where u are the codes minus
the zero point. The stored scales are rounded; a row for which the rounded scales would be worse
keeps its old ones.

`descend_codes` keeps the scales and runs cyclic coordinate descent over the codes. With all other
columns fixed, the optimal value of column j is v_j - (e H)_j / H_jj, and the best code is the
nearest to it. A span of columns takes in the changes of all other columns with one product at its
start, and its own changes as they happen.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_mask, require_weight, require_width
from .column_loop import SPANS, process_spans
from .damping import mean_live_diagonal
from .factor import decouple_dead_features
from .gram import Gram
from .results import QuantizedWeight

# Ridge relative to A's mean diagonal. The unknown is a change, so it only shortens the step.
_RIDGE = 1e-5
# Size of the linear systems [rows, groups, groups] of one chunk of rows, in numbers.
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
    """Return ``quantized`` with less damped output error against ``weight``.

    Scales are refitted before each of the ``sweeps`` passes over the codes, and after the last. It
    stops early when a pass changes no code. ``relative_error`` of the result is None;
    `QuantizedWeight.measured` computes it.

    Args:
        weight: the original weight, [out_features, in_features].
        quantized: its quantisation.
        gram: Gram matrix of the inputs.
        damping: added to the Hessian's diagonal, as a fraction of its mean.
        mask: boolean, same shape as ``weight``; codes are left unchanged where it is False.
        refit: whether to refit scales. Scales of super-blocks are never refitted.
        sweeps: number of passes over the codes.

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a weight is not finite.
    """
    if sweeps < 0:
        raise SettingError(f"sweeps {sweeps} is out of range; give 0 or more")
    _require_fit(weight, quantized, gram, mask)
    hessian = damped_hessian(gram, damping)
    refit = refit and quantized.super_blocks is None
    quantized = replace(quantized, relative_error=None)
    if refit:
        quantized = _refit_scales(weight, quantized, hessian)
    for _ in range(sweeps):
        before = quantized.codes
        quantized = _sweep_codes(weight, quantized, hessian, mask)
        changed = (quantized.codes != before).any(dim=1, keepdim=True)  # [out, 1]
        if not changed.any():
            break
        if refit:  # only rows that changed, so that a row does not depend on those stacked with it
            scales = _refit_scales(weight, quantized, hessian).scales
            quantized = replace(quantized, scales=torch.where(changed, scales, quantized.scales))
    return quantized


def refit_scales(
    weight: Tensor, quantized: QuantizedWeight, gram: Gram, *, damping: float = 0.01
) -> QuantizedWeight:
    """Return ``quantized`` with the best scales for its codes. Zero points do not change."""
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
    """Return ``quantized`` with better codes for its scales; masked-out codes do not change."""
    return refine(weight, quantized, gram, damping=damping, mask=mask, refit=False, sweeps=sweeps)


def damped_hessian(gram: Gram, damping: float) -> Tensor:
    """Return H with ``damping`` times its mean live diagonal added, as in `factorize`."""
    hessian, _ = decouple_dead_features(gram)
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
            "give the weight that these codes were made from"
        )


def _refit_scales(weight: Tensor, quantized: QuantizedWeight, hessian: Tensor) -> QuantizedWeight:
    """Refit the scales of all rows, a chunk of rows at a time to bound memory."""
    num_groups = quantized.scales.shape[1]
    # A row needs its system and two vectors of its width.
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
    """Return u, the codes minus the zero points, [rows, groups, group_size]."""
    codes = quantized.codes[rows]
    steps = codes.view(codes.shape[0], quantized.scales.shape[1], -1).to(dtype)
    if quantized.zero_points is not None:
        steps -= quantized.zero_points[rows].unsqueeze(-1).to(dtype)
    return steps


def _refit_rows(
    weight: Tensor, steps: Tensor, scales: Tensor, hessian: Tensor, *, signed: bool
) -> Tensor:
    """Return better scales [rows, groups] for u = ``steps`` [rows, groups, group_size]."""
    old = scales.to(hessian.dtype)
    error = (steps * old.unsqueeze(-1)).view(weight.shape).sub_(weight)  # e = V - W, [rows, in]
    slopes = (error @ hessian).view(steps.shape).mul_(steps).sum(-1)  # -b = u_g' (e H)_g
    systems = _systems(steps, hessian)  # A, [rows, groups, groups]
    # Solve A d = b, round to the stored dtype, keep old scales where the result is unusable.
    new = (old + _solve(systems, -slopes)).to(scales.dtype)
    usable = torch.isfinite(new) & ((new != 0) if signed else (new > 0))
    new = torch.where(usable, new, scales)
    # The error changes by d'A d - 2 b'd for the rounded d; accept a row where that is negative.
    change = new.to(hessian.dtype) - old
    curvature = (systems @ change.unsqueeze(-1)).squeeze(-1)
    improved = (change * (curvature + 2 * slopes)).sum(-1, keepdim=True) < 0
    return torch.where(improved, new, scales)


def _systems(steps: Tensor, hessian: Tensor) -> Tensor:
    """Return A_gk = u_g' H_gk u_k, [rows, groups, groups]; the lower half follows from symmetry."""
    rows, num_groups, size = steps.shape
    systems = steps.new_zeros(rows, num_groups, num_groups)
    for group in range(num_groups):
        start = group * size
        products = steps[:, group] @ hessian[start : start + size, start:]  # u_g' H_g,g:
        products = products.view(rows, num_groups - group, size).mul_(steps[:, group:])
        systems[:, group, group:] = products.sum(-1)
    return systems + systems.triu(1).mT


def _solve(systems: Tensor, rhs: Tensor) -> Tensor:
    """Solve systems x = rhs, [rows, groups]; x is 0 in rows whose factorisation fails."""
    diagonal = systems.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * diagonal.mean(1, keepdim=True) + (diagonal == 0)
    lower, info = torch.linalg.cholesky_ex(systems + torch.diag_embed(ridge))
    solved = torch.cholesky_solve(rhs.unsqueeze(-1), lower).squeeze(-1)
    return torch.where((info == 0).unsqueeze(1), solved, 0.0)


def _sweep_codes(
    weight: Tensor, quantized: QuantizedWeight, hessian: Tensor, mask: Tensor | None
) -> QuantizedWeight:
    """Return the result of one pass of coordinate descent over all columns."""
    kept = None if mask is None else mask.T.to(hessian.dtype).contiguous()
    descent = _Descent(weight.detach().to(hessian.dtype), quantized, hessian, kept)
    descent.sweep()
    return replace(quantized, codes=descent.codes.T.to(torch.int8).contiguous())


class _Descent:
    """One pass of coordinate descent, on transposed tensors so that a column is contiguous."""

    def __init__(
        self, weight: Tensor, quantized: QuantizedWeight, hessian: Tensor, kept: Tensor | None
    ) -> None:
        dtype = hessian.dtype
        self.codes = quantized.codes.T.to(dtype).contiguous()  # [in, out]
        self._kept = kept
        self._grid = quantized.grid
        self._group_width = weight.shape[1] // quantized.scales.shape[1]
        self._scales = quantized.scales.T.to(dtype).contiguous()  # [groups, out]
        self._errors = (quantized.dequantize(dtype) - weight).T.contiguous()  # e = V - W, [in, out]
        # Row j of H over H_jj, so that a gradient is the distance to the optimal value.
        self._normal = hessian / hessian.diagonal().unsqueeze(1)
        self._gradients = torch.empty_like(self._errors)  # (e H)_j / H_jj, [in, out]
        self._changes = torch.empty_like(self._errors)  # change of v_j in this pass, [in, out]

    def sweep(self) -> None:
        width = self.codes.shape[0]
        for span in _slices(width, SPANS[0]):
            # Gradients of the span from all errors so far.
            torch.mm(self._normal[span], self._errors, out=self._gradients[span])
            process_spans(self, span.start, min(span.stop, width), SPANS[1:])
            self._errors[span] += self._changes[span]

    def pass_on(self, first: int, last: int, stop: int) -> None:
        self._gradients[last:stop].addmm_(
            self._normal[last:stop, first:last], self._changes[first:last]
        )

    def settle_columns(self, start: int, stop: int) -> None:
        for index in range(start, stop):
            change = self._update_column(index)
            if index + 1 < stop:
                rest = self._gradients[index + 1 : stop]
                rest.addr_(self._normal[index + 1 : stop, index], change)

    def _update_column(self, index: int) -> Tensor:
        """Set a column's codes to the nearest to its optimal values; return the change of v_j."""
        codes, change = self.codes[index], self._changes[index]
        scales = self._scales[index // self._group_width]
        # the code nearest to code - (e H)_j / H_jj / scale
        torch.div(self._gradients[index], scales, out=change)
        self._grid.nearest_(torch.sub(codes, change, out=change)).sub_(codes)
        if self._kept is not None:
            change *= self._kept[index]
        codes += change
        return change.mul_(scales)
