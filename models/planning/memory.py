"""Estimates of peak memory, from shapes alone: passes, training, writing, factorising."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ...checkpoints import BitsAndBytes, Checkpoint, GgmlBlocks, Quantized, TensorRef
from ...checkpoints.coded import has_scales
from ...checkpoints.safetensors_writer import PIECE_BYTES
from ...texts import Windows
from ..blocks.activations import resting_device
from ..blocks.device import compute_dtype, default_device, judged_dtype
from ..blocks.empty_model import empty_model, find_blocks, shared_model, text_config
from ..blocks.linears import Linear, find_linears, linears_by_block
from .outline import in_memory

# The Gram matrix, its damped copy, the reversed copy, the factor, an identity and the inverse.
_COPIES_TO_FACTOR = 6
# Bytes per quantised weight while packing: int8, unsigned copy, shifted int32 copy.
_PACKED_BYTES = 9
# Of one window: logits of two models, their log-probabilities, and what KL makes of them.
_LOGITS_HELD = 6


def pass_bytes(
    checkpoint: Checkpoint,
    windows: Windows,
    batch_size: int,
    *,
    grams: bool,
    paired: bool = False,
) -> int:
    """Peak bytes of a pass over the blocks beyond the checkpoint.

    Counted: embeddings, head and norms in the compute dtype; hidden states of all windows before
    and after a block, unless they rest in the machine's memory (`blocks.activations`); and the
    larger of two terms. One is the logits of one batch. The other is two blocks, the activations of
    one batch (four of the widest, and the input of every linear) and, with ``grams``, one float32
    Gram matrix per linear (an upper bound: linears on one input share one) and the factorisation of
    the largest. A ``paired`` pass adds the hidden states of a second model, one batch's inputs of
    every linear, and as many Gram matrices again.
    """
    device = default_device()
    width = compute_dtype(checkpoint, device).itemsize
    model = shared_model(checkpoint)
    config = model.config.get_text_config(decoder=True)
    path, blocks = find_blocks(model)
    linears = find_linears(blocks[0], f"{path}.0.")
    inside = [name for name in checkpoint.refs if name.startswith(f"{path}.")]
    in_blocks = sum(checkpoint.refs[name].num_values for name in inside)
    outside = checkpoint.num_parameters - in_blocks
    weights = 2 * in_blocks // len(blocks) * width
    hidden = 2 * windows.num_tokens * int(config.hidden_size) * width
    if resting_device(device, hidden) != device:
        hidden = 0
    widest = max(max(linear.shape) for linear in linears)
    tokens = min(batch_size, windows.num_windows) * windows.length
    kept = tokens * sum(linear.shape[1] for linear in linears) * width
    activations = 4 * widest * tokens * width + kept
    summed = _gram_bytes(linears) if grams else 0
    inside_blocks = weights + activations + summed
    if paired:
        inside_blocks += hidden + kept + summed
    logits = int(config.vocab_size) * tokens * width
    return outside * width + hidden + max(logits, inside_blocks)


def judging_bytes(light: Checkpoint, texts: Iterable[Windows], batch_size: int) -> int:
    """Peak bytes of comparing a model with the original on some texts.

    The larger of the light model's pass, with the original's hidden states, and of one window's
    logits of both models with their embeddings and heads and the hidden states of all windows.
    """
    windows = _gathered(texts)
    config = text_config(light)
    width = judged_dtype(light, default_device()).itemsize
    outside = 2 * int(config.vocab_size) * int(config.hidden_size) * width
    states = windows.num_tokens * int(config.hidden_size) * width
    logits = _LOGITS_HELD * windows.length * int(config.vocab_size) * 4
    passed = pass_bytes(light, windows, batch_size, grams=False)
    return max(passed + states + outside // 2, outside + 2 * states + logits)


def _gathered(texts: Iterable[Windows]) -> Windows:
    """As many windows as all texts have, each as long as the longest, without tokens."""
    found = list(texts)
    count = sum(windows.num_windows for windows in found)
    length = max((windows.length for windows in found), default=0)
    return Windows(torch.empty(count, length, dtype=torch.int64, device="meta"), "")


def training_bytes(
    teacher: Checkpoint | None,
    light: Checkpoint,
    windows: Windows,
    *,
    micro_batch_size: int,
    rank: int | None,
    packed: bool,
    checkpointing: bool,
    scales: bool = False,
) -> int:
    """Peak bytes of whole-model training.

    Counted: the teacher's pass over the windows, if there is one; the light model in float32; for
    trained parameters the gradient, two moments and the best iterate; for one step the activations,
    twice (norms, attention and activation functions save theirs too), and six tensors of logits.

    Args:
        rank: rank of adapters on every linear but experts; None if all weights are trained.
        packed: linears are 4-bit, with one byte per weight for masks.
        checkpointing: only one block's activations are kept at a time, and every block's input.
        scales: the scales of quantised weights are trained too, beside their codes in int8, or the
            values of ggml types in float16.
    """
    blocks = linears_by_block(light)
    linears = [linear for block in blocks for linear in block]
    sides = sum(sum(linear.shape) for linear in linears if linear.expert is None)
    learned = light.num_parameters if rank is None else rank * sides
    quantized = [ref for ref in light.refs.values() if scales and has_scales(ref)]
    learned += sum(ref.num_scales for ref in quantized)
    codes = sum(ref.num_values * (1 + isinstance(ref, GgmlBlocks)) for ref in quantized)
    vocabulary = max(ref.shape[0] for ref in light.refs.values() if len(ref.shape) == 2)
    tokens = min(micro_batch_size, windows.num_windows) * windows.length
    kept = 2 * sides // (len(blocks) if checkpointing else 1)
    step = 4 * (4 * learned + tokens * (kept + 6 * vocabulary)) + (learned if rank is None else 0)
    model = 4 * light.num_parameters + codes
    if packed:
        model -= sum(2 * linear.shape[0] * linear.shape[1] for linear in linears if linear.plain)
    batch = micro_batch_size
    passed = 0 if teacher is None else pass_bytes(teacher, windows, batch, grams=False)
    return passed + model + step


def gradient_bytes(checkpoint: Checkpoint, windows: Windows) -> int:
    """Peak bytes of the gradients of one window at a time, when no weight is trained."""
    return training_bytes(
        None, checkpoint, windows, micro_batch_size=1, rank=0, packed=False, checkpointing=False
    )


def written_bytes(checkpoint: Checkpoint, groups: Iterable[Sequence[str]]) -> int:
    """Peak bytes of writing a model folder, beyond the model.

    Counted: what the largest group of tensors takes while it is read, packed or converted, and the
    piece of a tensor that is copied. For bitsandbytes also the quantised model, which transformers
    holds whole.

    Args:
        groups: the names that are converted together (`writing.folder.converted_together`).
    """
    held = any(isinstance(ref, BitsAndBytes) for ref in checkpoint.refs.values())
    peak = max((_group_bytes([checkpoint.refs[n] for n in names]) for names in groups), default=0)
    largest = max((ref.num_bytes for ref in checkpoint.refs.values()), default=0)
    return peak + min(PIECE_BYTES, largest) + (checkpoint.num_bytes if held else 0)


def _group_bytes(refs: Sequence[TensorRef]) -> int:
    """Of tensors that are read one by one; those of a larger group are there twice."""
    converted = sum(ref.num_bytes for ref in refs) if len(refs) > 1 else 0
    return converted + sum(map(_read_bytes, refs))


def _read_bytes(ref: TensorRef) -> int:
    """Of one tensor: its float32 values; or codes, what packing makes of them, and the result."""
    if isinstance(ref, Quantized):
        return ref.num_bytes + _PACKED_BYTES * ref.num_values
    if isinstance(ref, BitsAndBytes):
        return _read_bytes(ref.source)
    if in_memory(ref):
        return 0
    return max(4, ref.dtype.itemsize) * ref.num_values


def factor_bytes(width: int) -> int:
    """Bytes of factorising a float32 Gram matrix ``[width, width]``, beyond the matrix."""
    return 4 * _COPIES_TO_FACTOR * width**2


def _gram_bytes(linears: Sequence[Linear]) -> int:
    widths = [linear.shape[1] for linear in linears]
    return 4 * sum(width**2 for width in widths) + factor_bytes(max(widths))


def block_bytes(dense: Checkpoint, light: Checkpoint, windows: Windows, *, batch_size: int) -> int:
    """Peak bytes of blockwise healing.

    Counted: a pass over each model; the healed tensors; for the present block six float32 values
    per weight (copy, gradient, two moments, best iterate, best of another rate) and the activations
    of one step, twice (norms, attention and activation functions save theirs too).
    """
    batch = min(batch_size, windows.num_windows)
    passes = [pass_bytes(model, windows, batch, grams=False) for model in (dense, light)]
    path, blocks = find_blocks(empty_model(light))
    inside = [ref for name, ref in light.refs.items() if name.startswith(f"{path}.")]
    values = sum(ref.num_values for ref in inside) // len(blocks)
    sides = sum(sum(linear.shape) for linear in find_linears(blocks[0], f"{path}.0."))
    step = 2 * batch * windows.length * sides
    return sum(passes) + sum(ref.num_bytes for ref in inside) + 4 * (6 * values + step)
