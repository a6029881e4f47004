"""Low-rank corrections of the quantisation error, saved as a LoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ...checkpoints import Checkpoint
from ...errors import SettingError
from ...models.blocks.device import stored_dtype
from ...models.blocks.linears import Linear, all_linears
from ...models.codecs.peft_adapter import adapter_files
from ...solvers.gram import Gram
from ...solvers.low_rank import correct_low_rank
from ...solvers.output_error import relative_output_error


@dataclass(frozen=True)
class Correcting:
    """Finds the low-rank correction of each linear.

    Attributes:
        factors: of every linear its B ``[out_features, rank]``, as NAME.B, and A ``[rank,
            in_features]``, as NAME.A; filled as they are done, and kept where a pass is stopped.
    """

    rank: int
    damping: float
    factors: dict[str, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        weights: Sequence[tuple[Linear, Tensor]],
        target: Tensor,
        replacement: Tensor,
        gram: Gram,
    ) -> dict[str, float]:
        """Correct each linear of a stack; returns its remaining relative output error.

        Args:
            target: what the stack should have held, [out_features, in_features], to give what it
                is asked for; the weights themselves if errors of earlier blocks are not corrected.
            replacement: what it holds.
        """
        heights = [len(weight) for _, weight in weights]
        parts = zip(weights, target.split(heights), replacement.split(heights), strict=True)
        left: dict[str, float] = {}
        for (linear, weight), wanted, value in parts:
            found = correct_low_rank(wanted, value, gram, rank=self.rank, damping=self.damping)
            self.factors[f"{linear.name}.B"] = found.left.cpu()
            self.factors[f"{linear.name}.A"] = found.right.cpu()
            left[linear.name] = relative_output_error(
                weight, value + found.left @ found.right, gram
            )
        return left


def with_adapter(
    checkpoint: Checkpoint, correcting: Correcting
) -> tuple[Checkpoint, Mapping[str, int]]:
    """The checkpoint with the corrections as an adapter, and the bytes they take."""
    corrected = [each for each in all_linears(checkpoint) if f"{each.name}.B" in correcting.factors]
    factors = {
        linear: (correcting.factors[f"{linear.name}.B"], correcting.factors[f"{linear.name}.A"])
        for linear in corrected
    }
    dtype = stored_dtype(checkpoint, checkpoint.refs[corrected[0].tensor])
    files = adapter_files(factors, rank=correcting.rank, dtype=dtype)
    metrics = {"adapter_bytes": sum(len(data) for data in files.values())}
    return replace(checkpoint, files={**checkpoint.files, **files}), metrics


def check_rank(linear: Linear, rank: int) -> None:
    """Refuse a rank that is larger than the smaller side of the weight."""
    if rank > min(linear.shape):
        raise SettingError(
            f"layer '{linear.name}': rank {rank} is more than the smaller side of {linear.shape}; "
            f"set quantize(rank=...) to {min(linear.shape)} or less"
        )
