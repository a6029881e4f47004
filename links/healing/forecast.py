"""What heal expects to cost: training in block passes, by method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoints import Checkpoint, Coded
from ...contexts.forecast import Forecast
from ...models.blocks.linears import all_linears
from ...models.planning.effort import num_blocks, remade
from ...models.planning.outline import exchanged
from ...texts import Windows
from .methods import chosen, num_heldout


def heal_forecast(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    """Per epoch a pass forward and two back; what dense gives; three models judged at the end.

    Blocks 1, 2, 4, 8 and so on are trained at one more rate at least.
    """
    epochs = chosen(settings)["epochs"]
    light: Checkpoint = ctx["checkpoint"]
    windows: Windows = ctx["healing"]
    judged = num_heldout(windows, settings["heldout_share"])
    trained = windows.num_windows - judged
    learning = epochs * (3 * trained + judged)
    runs = learning + 2 * windows.num_windows
    whole = settings["method"] != "blocks"  # the other methods run the model to its logits
    again = 0 if whole else num_blocks(light).bit_length()
    heads = learning + windows.num_windows if whole else 0
    plain = [each for each in all_linears(light) if not isinstance(light.refs[each.tensor], Coded)]
    return Forecast(
        adds={"checkpoint": exchanged(light, remade(light, plain))},
        block_passes=num_blocks(light) * (runs + 3 * judged) + again * learning,
        head_passes=heads + 3 * judged,
        moved_bytes=4 * light.num_bytes,
    )
