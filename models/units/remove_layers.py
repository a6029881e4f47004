"""Remove whole blocks from a model and refit the blocks around the gaps.

The output linear of the last block before a gap is refitted by least squares, so that it also adds
what the removed blocks added: its target are the inputs of the next remaining block in the original
model. Blocks after a gap are refitted too, to correct the remaining residual. The correction goes
into existing weights; if a norm or a router follows the output linear, nothing is refitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...checkpoints import Checkpoint, TensorRef, ranks
from ...errors import ModelError
from ...texts import Windows
from ..blocks.empty_model import find_blocks, shared_model
from ..blocks.linears import Linear, find_linears
from ..blocks.replay import Batch, capture, check_finite, replay, require_independent
from ..blocks.skeleton import Skeleton
from ..passes.resuming import PassState
from .config_keys import layer_settings, with_settings
from .layout import plain_output
from .remove_units import require_same
from .residuals import Fed, lacking
from .unused_layers import renumber_unused

Bridge = Callable[[Fed], Tensor]


def require_alike(checkpoint: Checkpoint) -> int:
    """Number of blocks, all of the same shapes.

    Raises:
        ModelError: the blocks differ, so a config cannot express which are left.
    """
    model = shared_model(checkpoint)
    path, blocks = find_blocks(model)
    shapes = [{name: p.shape for name, p in block.named_parameters()} for block in blocks]
    for index, found in enumerate(shapes):
        if found != shapes[0]:
            raise ModelError(
                f"'{path}.{index}' of {type(model).__name__} differs in shape from '{path}.0', and "
                f"a config with fewer blocks cannot express which of them are left"
            )
    return len(blocks)


def keep_layers(
    checkpoint: Checkpoint,
    windows: Windows,
    kept: Sequence[int],
    bridge: Bridge,
    correct: Bridge | None,
    *,
    batch_size: int,
    announce: Callable[[int, int], None],
    begin: PassState | None = None,
    save: Callable[[PassState], None] = lambda standing: None,
) -> Checkpoint:
    """The model of the blocks ``kept``, ascending, with refitted output linears.

    Args:
        bridge: returns the new weight of the output linear before a gap.
        correct: returns the new weight of output linears after a gap; None leaves them.
        announce: receives the number of finished blocks and their total.
        begin: progress of an interrupted pass; None to start from the beginning.
        save: receives the progress after every block.

    Raises:
        DataError: a linear received too few tokens.
        ModelError: the shorter model does not compute the same as the pass.
        NumericsError: NaN or infinity in a block's output.
    """
    skeleton = Skeleton(checkpoint)
    batches = capture(skeleton, ranks.share(windows.tokens).split(batch_size))
    require_independent(skeleton, batches)
    span = _Span(skeleton, batches, plain_output(skeleton), bridge, correct)
    if begin is not None:
        span.take_up(begin.of_rank(span.hidden), kept)
    else:
        span.lead(range(kept[0]))
    for index, end in zip(kept, (*kept[1:], len(skeleton.blocks)), strict=True):
        if index < span.next:
            continue
        span.cross(index, end)
        if end < len(skeleton.blocks):
            save(span.standing())
        announce(end, len(skeleton.blocks))
    config = shorter_config(skeleton.checkpoint, kept)
    shorter = checkpoint.evolve(_renumbered(skeleton, kept, span.bridged), config=config)
    beside = renumber_unused(checkpoint, kept)
    shorter = replace(shorter, unused=beside.unused, left_out=beside.left_out)
    require_same(shorter, batches[0], span.hidden[0])
    return shorter


class _Span:
    """The original and the shorter model, run side by side."""

    def __init__(
        self,
        skeleton: Skeleton,
        batches: Sequence[Batch],
        output: str | None,
        bridge: Bridge,
        correct: Bridge | None,
    ) -> None:
        self._skeleton, self._batches = skeleton, batches
        self._output, self._bridge, self._correct = output, bridge, correct
        self._done = 0
        self.next = 0
        self.given: Sequence[Tensor] = [batch.hidden for batch in batches]
        self.hidden: Sequence[Tensor] = list(self.given)
        self.bridged: dict[str, Tensor | TensorRef] = {}

    def standing(self) -> PassState:
        """The progress of both models."""
        return PassState(self.next, self.hidden, self.given, self.bridged)

    def take_up(self, standing: PassState, kept: Sequence[int]) -> None:
        """Resume from saved progress."""
        self.next, self.hidden, self.bridged = (
            standing.index,
            standing.hidden,
            dict(standing.rewritten),
        )
        self.given = standing.given or self.given
        self._done = sum(index < self.next for index in kept)

    @torch.no_grad()
    def lead(self, indices: Sequence[int]) -> None:
        """Run the original model through some blocks."""
        for index in indices:
            with self._skeleton.block(index) as block:
                self.given = [
                    replay(block, states, batch.calls[index])
                    for states, batch in zip(self.given, self._batches, strict=True)
                ]
            check_finite(self.given, f"{self._skeleton.path}.{index}")

    @torch.no_grad()
    def cross(self, index: int, end: int) -> None:
        """Run the shorter model through one block, and the original one up to ``end``."""
        self.lead(range(index, end))
        prefix = f"{self._skeleton.path}.{index}."
        refit = self._bridge if end > index + 1 else self._correct if index > self._done else None
        self._done, self.next = self._done + 1, end
        with self._skeleton.block(index) as block:
            if refit is not None and self._output is not None:
                name = f"{prefix}{self._output}"
                (linear,) = (each for each in find_linears(block, prefix) if each.tensor == name)
                self._refit(index, linear, refit)
            self.hidden = [
                replay(block, states, batch.calls[index])
                for states, batch in zip(self.hidden, self._batches, strict=True)
            ]
        check_finite(self.hidden, prefix.removesuffix("."))

    def _refit(self, index: int, linear: Linear, refit: Bridge) -> None:
        skeleton = self._skeleton
        parameter = skeleton.model.get_parameter(linear.tensor).detach()
        fed = lacking(
            skeleton.blocks[index],
            f"{skeleton.path}.{index}.",
            linear,
            linear.view(parameter),
            self.hidden,
            [batch.calls[index] for batch in self._batches],
            self.given,
        )
        stored = skeleton.checkpoint.tensors[linear.tensor].clone()
        linear.view(stored).copy_(ranks.from_first(lambda: refit(fed)))
        skeleton.put(linear.tensor, stored)
        self.bridged[linear.tensor] = stored


def shorter_config(checkpoint: Checkpoint, kept: Sequence[int]) -> dict[str, object]:
    """Top-level config keys of a model with only the blocks ``kept``."""
    whole = shared_model(checkpoint).config
    changes = layer_settings(whole.get_text_config(decoder=True), kept)
    return with_settings(checkpoint, whole, changes)


def _renumbered(
    skeleton: Skeleton, kept: Sequence[int], bridged: Mapping[str, Tensor | TensorRef]
) -> dict[str, Tensor | TensorRef | None]:
    """Changes for `evolve`: remaining blocks under their new index, the last ones removed."""
    path, refs = skeleton.path, skeleton.checkpoint.refs
    fresh: dict[str, Tensor | TensorRef | None] = {}
    for place in range(len(skeleton.blocks)):
        for name in skeleton.block_names(place):
            fresh[name] = None
            if place < len(kept):
                old = f"{path}.{kept[place]}.{name.removeprefix(f'{path}.{place}.')}"
                fresh[name] = bridged.get(old, refs[old])
    return fresh
