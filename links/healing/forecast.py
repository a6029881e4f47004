"""The cost of heal: training and evaluation, in block passes, by method."""

from __future__ import annotations

from ...checkpoints import Coded
from ...contexts.flow import Healable
from ...contexts.forecast import Forecast
from ...models.blocks.linears import all_linears
from ...models.planning.effort import num_blocks, remade
from ...models.planning.memory import block_bytes, judging_bytes, training_bytes
from ...models.planning.outline import exchanged
from .judgement import judged_parts
from .methods import num_heldout
from .settings import HealSettings, chosen


def heal_forecast(ctx: Healable, settings: HealSettings) -> Forecast:
    """Per epoch one forward and two backward passes; the original's outputs; three evaluations.

    Blocks 1, 2, 4, 8 and so on are trained at one more learning rate at least.
    """
    how, light, windows = chosen(settings), ctx["checkpoint"], ctx["healing"]
    heldout = num_heldout(windows, settings.heldout_share)
    learning = how.epochs * (3 * (windows.num_windows - heldout) + heldout)
    texts = judged_parts(ctx, heldout)
    judged = sum(each.num_windows for each in texts.values())
    runs = learning + 2 * windows.num_windows
    whole = settings.method != "blocks"  # the other methods run the model to its logits
    again = 0 if whole else num_blocks(light).bit_length()
    heads = learning + windows.num_windows if whole else 0
    plain = [each for each in all_linears(light) if not isinstance(light.refs[each.tensor], Coded)]
    return Forecast(
        adds={"checkpoint": exchanged(light, remade(light, plain))},
        block_passes=num_blocks(light) * (runs + 3 * judged) + again * learning,
        head_passes=heads + 4 * judged,  # the dense logits beside those before and after
        moved_bytes=4 * light.num_bytes,
        memory_bytes=max(_memory_bytes(ctx, settings), judging_bytes(light, texts.values(), 1)),
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
        rank=None if settings.method == "full" else how.rank,
        packed=settings.method == "qlora",
        checkpointing=how.gradient_checkpointing,
    )
