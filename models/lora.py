"""Low-rank adapters under which no zero weight comes alive.

LoRA (https://arxiv.org/abs/2106.09685) through PEFT. A matrix that holds zeros is adapted as
MaskLoRA in PERP does it (https://arxiv.org/abs/2312.15230): the weight that computes is
``W + s * M * (B A)`` with ``M = (W != 0)``, in training as after the merge, so merging is exact and
every zero of ``W`` stays a zero. We differ in recomputing that weight for the backward pass
instead of keeping it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_ADAPTER = "default"


class _MaskedProduct(torch.autograd.Function):
    """``x @ (W + s * (W != 0) * (B A)).T``, keeping x, W, B and A only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, up: Tensor, down: Tensor, s: float) -> Tensor:
        ctx.save_for_backward(x, weight, up, down)
        ctx.s = s
        return x @ _effective(weight, up, down, s).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x, weight, up, down = ctx.saved_tensors
        outer = grads[0].flatten(0, -2).T @ x.flatten(0, -2)
        slope = outer.mul_(weight != 0).mul_(ctx.s)
        return (
            grads[0] @ _effective(weight, up, down, ctx.s),
            None,
            slope @ down.T,
            up.T @ slope,
            None,
        )


def _effective(weight: Tensor, up: Tensor, down: Tensor, s: float) -> Tensor:
    return torch.addcmul(weight, up @ down, (weight != 0).to(weight.dtype), value=s)


class MaskedLora(lora.Linear):
    """PEFT's adapter of an ``nn.Linear`` or ``Conv1D``, blind where the weight is zero."""

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, *, config: LoraConfig, **options: Any
    ) -> None:
        super().__init__(base_layer, adapter_name, config=config, **options)
        self.fan_in_fan_out = isinstance(base_layer, Conv1D)
        self.holds_zeros = bool((self._weight() == 0).any())

    def start(self, generator: torch.Generator) -> None:
        """Put the adapter in memory: A uniform as ``nn.Linear`` begins, B zero."""
        weight, rank = self._weight(), self.r[_ADAPTER]
        rows, cols = weight.shape
        bound = 1 / math.sqrt(cols)
        # Drawn on the CPU, so that every device starts from the same numbers.
        first = torch.empty(rank, cols).uniform_(-bound, bound, generator=generator)
        self.lora_A[_ADAPTER].weight = nn.Parameter(first.to(weight.device))
        self.lora_B[_ADAPTER].weight = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What merging adds to the stored weight."""
        delta: Tensor = super().get_delta_weight(adapter)
        stored: Tensor = self._base().weight
        return delta * (stored != 0)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The linear's outputs ``[..., out_features]`` with the adapter in."""
        if self.disable_adapters or self.merged or not self.holds_zeros:
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        up, down = self.lora_B[_ADAPTER].weight, self.lora_A[_ADAPTER].weight
        product: Tensor = _MaskedProduct.apply(  # type: ignore[no-untyped-call]
            x, self._weight(), up, down, self.scaling[_ADAPTER]
        )
        bias = self._base().bias
        return product if bias is None else product + bias

    def _base(self) -> Any:
        return self.get_base_layer()

    def _weight(self) -> Tensor:
        """``[out_features, in_features]``, a view."""
        weight: Tensor = self._base().weight.detach()
        return weight.T if self.fan_in_fan_out else weight


def attach(
    model: PreTrainedModel,
    modules: Sequence[str],
    *,
    rank: int,
    alpha: float,
    generator: torch.Generator,
) -> lora.LoraModel:
    """Adapters on the linears called ``modules``, in place; everything else is frozen.

    The outputs are unchanged so far, because B begins at zero. Global random state is not touched.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT only ever divides it
        target_modules=list(modules),
    )
    config._register_custom_module({nn.Linear: MaskedLora, Conv1D: MaskedLora})
    # Made on the meta device, where PEFT's own start draws from no generator.
    with torch.device("meta"):
        adapted = lora.LoraModel(model, {_ADAPTER: config}, _ADAPTER)
    for module in adapted.model.modules():
        if isinstance(module, MaskedLora):
            module.start(generator)
    return adapted


def merge(adapted: lora.LoraModel) -> PreTrainedModel:
    """The model with its adapters added into its weights, in place, and gone."""
    return cast(PreTrainedModel, adapted.merge_and_unload())
