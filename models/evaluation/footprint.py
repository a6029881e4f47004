"""Size of a model: parameters, masked parameters, bytes, and operations per token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from ...checkpoints import Checkpoint
from ..blocks.empty_model import find_blocks, shared_model
from ..blocks.linears import Linear, all_linears, find_linears

Measure = Literal["parameters", "bytes", "flops"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True)
class Footprint:
    """Size of a model.

    Attributes:
        parameters: number of values in all tensors, tied ones counted once.
        masked: number of zeros in the linears of the blocks.
        linear_weights: number of values in the linears of the blocks.
        num_bytes: bytes of all tensors as stored, including tensors without a parameter.
        flops: floating-point operations per token: two per weight of linears and head; of experts,
            only those a token is routed to.
    """

    parameters: int
    masked: int
    linear_weights: int
    num_bytes: int
    flops: int

    def share_of(self, other: Footprint) -> dict[Measure, float]:
        """The size relative to another model, by measure."""
        return {measure: self.of(measure) / other.of(measure) for measure in MEASURES}

    def of(self, measure: Measure) -> int:
        """One measure: parameters that are not masked, bytes, or operations."""
        if measure == "parameters":
            return self.parameters - self.masked
        return self.num_bytes if measure == "bytes" else self.flops

    @property
    def zero_share(self) -> float:
        """Fraction of the linears' weights that are zero."""
        return self.masked / self.linear_weights


def footprint(checkpoint: Checkpoint) -> Footprint:
    """Size of a model; reads the weights of all linears to count zeros."""
    bare = by_shapes(checkpoint)
    tensors = dict.fromkeys(linear.tensor for linear in all_linears(checkpoint))
    return replace(bare, masked=sum(_zeros(checkpoint, name) for name in tensors))


def by_shapes(checkpoint: Checkpoint) -> Footprint:
    """Size of a model from its config, without masks; reads no weight.

    Tensors may be larger than in the config, before a model is cut to size; bytes per value are
    taken from them.
    """
    model = shared_model(checkpoint)
    counts = {
        name: tensor.numel()
        for name, tensor in model.state_dict().items()
        if name in checkpoint.refs
    }
    per_value = {name: ref.num_bytes / ref.num_values for name, ref in checkpoint.refs.items()}
    linears = _linears(model)
    return Footprint(
        parameters=sum(counts.values()),
        masked=0,
        linear_weights=sum(_weights(linear) for linear in linears),
        num_bytes=round(sum(count * per_value[name] for name, count in counts.items()))
        + checkpoint.unused_bytes,
        flops=_flops(model, linears),
    )


def _linears(model: PreTrainedModel) -> list[Linear]:
    path, blocks = find_blocks(model)
    return [
        linear
        for index, block in enumerate(blocks)
        for linear in find_linears(block, f"{path}.{index}.")
    ]


def _zeros(checkpoint: Checkpoint, name: str) -> int:
    tensor = checkpoint.tensors[name]
    return tensor.numel() - int(torch.count_nonzero(tensor))


def _weights(linear: Linear) -> int:
    return linear.shape[0] * linear.shape[1]


def _flops(model: PreTrainedModel, linears: list[Linear]) -> int:
    head = model.get_output_embeddings()
    products = 0 if head is None else head.weight.numel()
    fraction = _fraction_of_experts(model.config.get_text_config(decoder=True))
    routed = sum(_weights(linear) for linear in linears if _is_experts(linear))
    plain = sum(_weights(linear) for linear in linears if not _is_experts(linear))
    return 2 * (products + plain + round(routed * fraction))


def _is_experts(linear: Linear) -> bool:
    return linear.expert is not None or ".experts." in linear.tensor


def _fraction_of_experts(config: object) -> float:
    """Fraction of the experts that a token is routed to; 1 without experts."""
    chosen = getattr(config, "num_experts_per_tok", None)
    counts = (getattr(config, name, None) for name in ("num_local_experts", "num_experts"))
    total = next((count for count in counts if count), None)
    return chosen / total if chosen and total else 1.0
