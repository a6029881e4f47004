"""profile: statistics of every linear's inputs and every block's effect, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..checkpoints import Checkpoint, ranks
from ..contexts.flow import Calibrated, Profiling
from ..contexts.forecast import Forecast
from ..contexts.profile import BlockProfile, LinearProfile, Profile
from ..engine import BatchSize, Settings, announce, in_thread, link
from ..models.blocks.linears import Linear, all_linears, expert_kind, find_linears
from ..models.blocks.replay import capture
from ..models.blocks.skeleton import Skeleton
from ..models.passes.experts import no_tokens
from ..models.passes.inputs import Group, SquareSum, sum_inputs
from ..models.planning.effort import num_blocks
from ..models.planning.memory import pass_bytes
from ..solvers.gram import GramAccumulator
from ..texts import Windows

_OUTLIER = 6.0  # root mean square over the layer's median; LLM.int8 (2208.07339) uses 6 too

Sums: TypeAlias = SquareSum | GramAccumulator


class ProfileSettings(Settings):
    """The settings of profile."""

    moments: Literal["diagonal", "full"] = "diagonal"
    """diagonal keeps the mean square of each input channel; full keeps the whole second moment,
    in_features^2 float32 values per distinct input, which score(method="sparsegpt") needs."""

    batch_size: BatchSize = 4
    """Windows per forward pass; halved where the device has no memory left."""


@link(ProfileSettings)
async def profile(ctx: Calibrated, settings: ProfileSettings) -> Profiling:
    """Measure the inputs of every linear and how much every block changes the hidden states."""
    found = await in_thread(
        _profile,
        ctx["checkpoint"],
        ctx["calibration"],
        settings.moments == "full",
        settings.batch_size,
    )
    dead = sum(len(each.dead_channels) for each in found.linears.values())
    outliers = sum(len(each.outlier_channels) for each in found.linears.values())
    return {
        "profile": found,
        "metrics": {
            "linears": len(found.linears),
            "dead_channels": dead,
            "outlier_channels": outliers,
            "least_influential_block": min(
                range(len(found.blocks)), key=lambda index: found.blocks[index].influence
            ),
        },
    }


def _profile(checkpoint: Checkpoint, windows: Windows, full: bool, batch_size: int) -> Profile:
    skeleton = Skeleton(checkpoint)
    batches = capture(skeleton, ranks.share(windows.tokens).split(batch_size))
    hidden = [batch.hidden for batch in batches]
    linears: dict[str, LinearProfile] = {}
    blocks = []
    start: Callable[[int, torch.device], Sums] = GramAccumulator if full else SquareSum
    for index, block in skeleton.each_block():
        prefix = f"{skeleton.path}.{index}."
        watched = find_linears(block, prefix)
        calls = [batch.calls[index] for batch in batches]
        groups, outputs = sum_inputs(block, prefix, watched, hidden, calls, start)
        for group in groups:
            linears.update(_linear_profiles(checkpoint, group, groups))
        names = skeleton.block_names(index)
        blocks.append(
            BlockProfile(
                influence=_influence(hidden, outputs),
                num_parameters=sum(checkpoint.refs[name].num_values for name in names),
                num_bytes=sum(checkpoint.refs[name].num_bytes for name in names),
            )
        )
        hidden = outputs
        announce("profiling blocks", index + 1, len(skeleton.blocks))
    return Profile(linears, tuple(blocks), windows.text, windows.num_tokens)


def _linear_profiles(
    checkpoint: Checkpoint, group: Group[Sums], groups: Sequence[Group[Sums]]
) -> dict[str, LinearProfile]:
    moment, num_tokens = _moment(group.sum)
    if num_tokens == 0:
        moment = _fellows_moment(group.linears[0], groups)
    mean_square = moment.diagonal() if moment.ndim == 2 else moment
    dead = torch.nonzero(mean_square == 0).flatten().tolist()
    scale = mean_square.sqrt()
    outliers = torch.nonzero(scale > _OUTLIER * scale.median()).flatten().tolist()
    return {
        linear.name: LinearProfile(
            shape=linear.shape,
            num_tokens=num_tokens,
            second_moment=moment,
            weight_norm=float(linear.view(checkpoint.tensors[linear.tensor]).float().norm()),
            dead_channels=tuple(dead),
            outlier_channels=tuple(outliers),
        )
        for linear in group.linears
    }


def _moment(total: Sums) -> tuple[Tensor, int]:
    """Mean of squares or of products, on the CPU, and the number of tokens; 0 without tokens."""
    summed = total.squares if isinstance(total, SquareSum) else total.gram().matrix
    return (summed / max(total.num_tokens, 1)).cpu(), total.num_tokens


def _fellows_moment(linear: Linear, groups: Sequence[Group[Sums]]) -> Tensor:
    """The mean over the tokens of all experts of the same kind, for one that received none."""
    kind = expert_kind(linear)
    fellows = [_moment(each.sum) for each in groups if expert_kind(each.linears[0]) == kind]
    num_tokens = sum(tokens for _, tokens in fellows)
    if num_tokens == 0:
        raise no_tokens(kind or linear.name)
    return torch.stack([moment * (tokens / num_tokens) for moment, tokens in fellows]).sum(0)


def _influence(entered: Sequence[Tensor], left: Sequence[Tensor]) -> float:
    cosines = [
        torch.cosine_similarity(a.float(), b.float(), dim=-1).flatten()
        for a, b in zip(entered, left, strict=True)
    ]
    return 1.0 - float(ranks.joined(torch.cat(cosines)).mean())


@profile.on_every_rank
def _on_every_rank(settings: ProfileSettings) -> bool:
    """The windows are divided."""
    return True


@profile.forecast
def _forecast(ctx: Calibrated, settings: ProfileSettings) -> Forecast:
    """One pass of every window through every block."""
    checkpoint, windows = ctx["checkpoint"], ctx["calibration"]
    runs, full = num_blocks(checkpoint) * windows.num_windows, settings.moments == "full"
    linears = {
        each.name: LinearProfile(each.shape, 0, _outline(each, full), 0.0, (), ())
        for each in all_linears(checkpoint)
    }
    return Forecast(
        adds={"profile": Profile(linears, (), windows.text, windows.num_tokens)},
        block_passes=runs,
        gram_passes=runs if full else 0,
        head_passes=min(settings.batch_size, windows.num_windows),
        memory_bytes=pass_bytes(checkpoint, windows, settings.batch_size, grams=full),
    )


def _outline(linear: Linear, full: bool) -> Tensor:
    width = linear.shape[1]
    return torch.empty((width, width) if full else (width,), device="meta")
