"""How much memory a pass over the blocks will take, stated before it starts."""

from __future__ import annotations

from ..checkpoints import Checkpoint
from ..texts import Windows
from .linears import find_linears
from .skeleton import compute_dtype, default_device, empty_model, find_blocks


def pass_bytes(checkpoint: Checkpoint, windows: Windows, batch_size: int, *, grams: bool) -> int:
    """Bytes a pass holds at its peak beyond the checkpoint: an estimate, from shapes alone.

    Counted: what is outside the blocks and two blocks in the compute dtype, hidden states of all
    windows before and after a block, one batch's widest activations, and, with ``grams``, one
    float32 Gram per linear twice over (an upper bound: linears on one input share theirs).
    """
    width = compute_dtype(checkpoint, default_device()).itemsize
    path, blocks = find_blocks(empty_model(checkpoint))
    linears = find_linears(blocks[0], f"{path}.0.")
    inside = [name for name in checkpoint.refs if name.startswith(f"{path}.")]
    in_blocks = sum(checkpoint.refs[name].num_values for name in inside)
    outside = checkpoint.num_parameters - in_blocks
    weights = (outside + 2 * in_blocks // len(blocks)) * width
    hidden_size = int(checkpoint.config.get("hidden_size") or checkpoint.config["n_embd"])
    hidden = 2 * windows.num_tokens * hidden_size * width
    widest = max(max(linear.shape) for linear in linears)
    activations = 4 * min(batch_size, windows.num_windows) * windows.length * widest * width
    squares = {linear.shape[1] for linear in linears}
    sums = 2 * sum(4 * side * side for side in squares) if grams else 0
    return weights + hidden + activations + sums
