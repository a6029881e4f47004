"""Fisher weights of the outputs of linears: what an error in each output channel costs.

f_r = E[(dL/dy_r)^2] per token, with L the sum of the negative log-likelihoods of a window and y_r
output channel r of a linear: the diagonal of the empirical Fisher matrix, which stands for the
Hessian of the loss. If a weight error dW changes the outputs by dW x, the loss rises by about
1/2 sum_r f_r (dW H dW')_rr per token, with H the mean of x x' (`loss_rises`).

One forward and one backward pass of the whole model per window; no gradient of a weight is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints import Checkpoint, ranks
from ...errors import NumericsError
from ...solvers.gram import Gram, GramAccumulator
from ..blocks.linears import Linear, all_linears
from ..blocks.products import in_pass
from ..blocks.skeleton import Skeleton


@dataclass(frozen=True)
class Fisher:
    """The gradient pass of a model on some windows.

    Attributes:
        outputs: f of the linears with a tensor of their own, float32 [out_features], by name.
        head: f of the output head, float32 [vocabulary]; None if the model has no linear head.
        head_inputs: Gram matrix of the inputs of the head; None without one.
        tokens: the distinct tokens of the windows, ascending, int64 [distinct].
        embedding: squared gradients with respect to the rows of the embedding of ``tokens``, summed
            over their occurrences, over the number of all tokens; float32 [distinct, width].
        num_tokens: tokens of the windows.
    """

    outputs: dict[str, Tensor]
    head: Tensor | None
    head_inputs: Gram | None
    tokens: Tensor
    embedding: Tensor
    num_tokens: int

    def embedding_rise(self, error: Tensor) -> float:
        """Rise of the loss per token from an error of the embedding.

        Args:
            error: of the rows of `tokens`, [distinct, width].
        """
        return 0.5 * float((self.embedding * error.cpu().float().square()).sum())


def output_fisher(
    checkpoint: Checkpoint,
    windows: Tensor,
    announce: Callable[[int, int], None],
) -> Fisher:
    """Run the gradient pass.

    Args:
        windows: int64 ``[num_windows, length]``.

    Raises:
        NumericsError: the loss of a window is not finite.
    """
    skeleton = Skeleton(checkpoint)
    model = skeleton.fill()
    linears = {each.name: each for each in all_linears(checkpoint) if each.has_own_tensor}
    sums = {name: _Squares() for name in linears}
    head = _head(model)
    with ExitStack() as hooks:
        for name, total in sums.items():
            _hook(hooks, model.get_submodule(name), total)
        inputs, outputs = _Inputs(), _Squares()
        if head is not None:
            _hook(hooks, head, outputs)
            _hook(hooks, head, inputs)
        entered = _Entered(windows.unique())
        _hook(hooks, model.get_input_embeddings(), entered)
        take_gradients(skeleton, windows, announce, before=entered.begin, after=inputs.add)
    if ranks.size() > 1:
        _join(linears, sums, skeleton.device)
        entered.squares = ranks.total(entered.squares)
        if outputs.squares is not None and inputs.sum is not None:
            outputs.squares = ranks.total(outputs.squares)
            inputs.sum.join(ranks.total)
    count = windows.numel()
    scale = (windows.shape[1] - 1) ** 2 / count  # the loss of a window is a mean: see _backward
    return Fisher(
        {name: total.mean(scale) for name, total in sums.items() if total.squares is not None},
        None if outputs.squares is None else outputs.mean(scale),
        None if inputs.sum is None else inputs.sum.gram(),
        entered.tokens,
        entered.squares * scale,
        count,
    )


def take_gradients(
    skeleton: Skeleton,
    windows: Tensor,
    announce: Callable[[int, int], None],
    *,
    before: Callable[[Tensor], None] = lambda window: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """The gradients of the mean negative log-likelihood of each window, one after the other.

    Hooks receive them. On several ranks each takes its part of the windows.

    Args:
        skeleton: with all blocks filled.
        windows: int64 ``[num_windows, length]``.
        before: called with each window ``[1, length]``.
        after: called once the gradients of a window are there.

    Raises:
        NumericsError: the loss of a window is not finite.
    """
    share = ranks.share(windows)
    for done, window in enumerate(share.split(1), 1):
        before(window)
        _backward(skeleton.model, window.to(skeleton.device), done)
        after()
        announce(done, len(share))


def _backward(model: nn.Module, tokens: Tensor, number: int) -> None:
    with torch.enable_grad(), in_pass(tokens.device):
        loss = model(tokens, labels=tokens, use_cache=False).loss  # mean over length - 1 tokens
        if not torch.isfinite(loss):
            raise NumericsError(
                f"the loss of calibration window {number} is {float(loss.detach())}; the weights "
                f"are damaged or the dtype is too narrow"
            )
        loss.backward()


def _join(
    linears: Mapping[str, Linear], sums: Mapping[str, _Squares], device: torch.device
) -> None:
    """Add the sums of all ranks; an expert may have received tokens on some of them only."""
    received = [name for name, each in sums.items() if each.squares is not None]
    seen = {name for names in ranks.exchanged(received) for name in names}
    for name, linear in linears.items():
        if name in seen:
            own = sums[name].squares
            empty = torch.zeros(linear.shape[0], device=device)
            sums[name].squares = ranks.total(empty if own is None else own)


def _head(model: Any) -> nn.Module | None:
    """The output head, where it is a linear without a bias."""
    head: nn.Module | None = model.get_output_embeddings()
    plain = isinstance(head, nn.Linear) and getattr(head, "bias", None) is None
    return head if plain else None


Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


def _hook(stack: ExitStack, module: nn.Module, hook: Hook) -> None:
    handle = module.register_forward_hook(hook)
    stack.callback(handle.remove)


class _Squares:
    """Sum over tokens of the squared gradient of a module's output, per channel."""

    def __init__(self) -> None:
        self.squares: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        output.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        found = gradient.detach().float().flatten(0, -2).square().sum(0)  # [channels]
        self.squares = found if self.squares is None else self.squares + found

    def mean(self, scale: float) -> Tensor:
        """The mean over tokens, on the CPU."""
        assert self.squares is not None
        return (self.squares * scale).cpu()


class _Inputs:
    """The Gram matrix of a module's inputs; those of a window are added once its loss is known."""

    def __init__(self) -> None:
        self.sum: GramAccumulator | None = None
        self._rows: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._rows = args[0].detach()

    def add(self) -> None:
        """Add the inputs of the last window."""
        if self._rows is None:
            return
        if self.sum is None:
            self.sum = GramAccumulator(self._rows.shape[-1], self._rows.device)
        self.sum.add(self._rows)
        self._rows = None


class _Entered:
    """Starts the gradients at the embedding's output, and sums their squares by token."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens.cpu()
        self.window = torch.empty(0, dtype=torch.int64)
        self.squares = torch.empty(0)
        self._factor = 1.0

    def begin(self, window: Tensor) -> None:
        """Count what follows to the tokens of this window."""
        self.window = window

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        output.requires_grad_(True)
        # Gemma's embedding multiplies its rows by a constant.
        self._factor = float(getattr(module, "embed_scale", 1.0))
        output.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        squares = (gradient.detach().float() * self._factor).square().flatten(0, -2).cpu()
        if not self.squares.numel():
            self.squares = torch.zeros(len(self.tokens), squares.shape[1])
        places = torch.searchsorted(self.tokens, self.window.cpu().flatten())
        self.squares.index_add_(0, places, squares)
