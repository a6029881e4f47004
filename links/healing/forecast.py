"""The cost of heal: sampling, training and evaluation, in block passes, by method."""

from __future__ import annotations

from dataclasses import replace

from ...checkpoints import Checkpoint, Coded
from ...contexts.flow import Healable
from ...contexts.forecast import Forecast
from ...models.blocks.linears import all_linears
from ...models.planning.effort import num_blocks, remade
from ...models.planning.memory import block_bytes, judging_bytes, training_bytes
from ...models.planning.outline import exchanged
from ...models.sampling.self_text import decoded_alone, sampling_bytes
from .duration import seconds_of
from .judgement import judged_parts
from .methods import num_heldout, require_scales
from .settings import Chosen, HealMethod, HealSettings, chosen


def training_work(
    method: HealMethod, how: Chosen, light: Checkpoint, num_windows: int, heldout: int
) -> tuple[float, float]:
    """Passes of a window through one block, and to logits, of training and what it compares with.

    Per epoch one forward and two backward passes, and the original's outputs. Blocks 1, 2, 4, 8 and
    so on are trained at one more learning rate at least.
    """
    learning = how.epochs * (3 * (num_windows - heldout) + heldout)
    whole = method != "blocks"  # the other methods run the model to its logits
    again = 0 if whole else num_blocks(light).bit_length()
    heads = learning + num_windows if whole else 0
    return num_blocks(light) * (learning + 2 * num_windows) + again * learning, heads


def judging_work(ctx: Healable, heldout: int) -> tuple[float, float]:
    """The same of judging: the model before and after, and the original."""
    judged = sum(each.num_windows for each in judged_parts(ctx, heldout).values())
    # The original's logits beside those before and after.
    return 3 * judged * num_blocks(ctx["checkpoint"]), 4 * judged


def heal_forecast(ctx: Healable, settings: HealSettings) -> Forecast:
    """Sampling, training and three evaluations; the time that is set, if one is.

    Raises:
        SettingError: the method finds nothing to train.
    """
    how, light, windows = chosen(settings), ctx["checkpoint"], ctx["healing"]
    require_scales(light, settings.method)
    heldout = num_heldout(windows, settings.heldout_share)
    asked = 0 if settings.tokens is None else -(-settings.tokens // windows.length)
    count = max(windows.num_windows, asked)
    blocks, heads = training_work(settings.method, how, light, count, heldout)
    judged_blocks, judged_heads = judging_work(ctx, heldout)
    changed = () if settings.method == "scales" else all_linears(light)
    plain = [each for each in changed if not isinstance(light.refs[each.tensor], Coded)]
    texts = judged_parts(ctx, heldout)
    sampled = (count - windows.num_windows) * windows.length
    samples = settings.time is not None or sampled > 0
    timed = Forecast(seconds=0.0 if settings.time is None else seconds_of(settings.time))
    worked = Forecast(
        block_passes=blocks + judged_blocks,
        head_passes=heads + judged_heads,
        decoded_tokens=decoded_alone(sampled),
    )
    return replace(
        worked if settings.time is None else timed,
        adds={"checkpoint": exchanged(light, remade(light, plain))},
        moved_bytes=4 * light.num_bytes,
        memory_bytes=max(
            _memory_bytes(ctx, settings),
            judging_bytes(light, texts.values(), 1),
            sampling_bytes(ctx["dense"]) if samples else 0,
        ),
    )


def _memory_bytes(ctx: Healable, settings: HealSettings) -> int:
    """Memory of training."""
    how, windows = chosen(settings), ctx["healing"]
    if settings.method == "blocks":
        return block_bytes(ctx["dense"], ctx["checkpoint"], windows, batch_size=how.batch_size)
    return training_bytes(
        ctx["dense"] if how.kl_weight else None,
        ctx["checkpoint"],
        windows,
        micro_batch_size=how.micro_batch_size,
        rank={"full": None, "scales": 0}.get(settings.method, how.rank),
        packed=settings.method == "qlora",
        checkpointing=how.gradient_checkpointing,
        scales=settings.method == "scales",
    )
