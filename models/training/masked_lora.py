"""LoRA adapters that keep pruned weights at zero.

LoRA (https://arxiv.org/abs/2106.09685) through PEFT. A matrix that contains zeros is adapted as
MaskLoRA in PERP (https://arxiv.org/abs/2312.15230): the effective weight is ``W + s * M * (B A)``
with ``M = (W != 0)``, in training and after the merge, so merging is exact and every zero of ``W``
stays zero. Unlike PERP, the effective weight is recomputed in the backward pass instead of stored.
On a 4-bit base (QLoRA, https://arxiv.org/abs/2305.14314) the mask is that of the weight before
quantisation, and the adapter is added to that weight, never to the quantised one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_ADAPTER = "default"


class _MaskedProduct(torch.autograd.Function):
    """``x @ (W + s * (W != 0) * (B A)).T``, saving only x, W, B and A for the backward pass.

    If W is a boolean mask, only the adapter's part: ``x @ (s * W * (B A)).T``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, up: Tensor, down: Tensor, s: float) -> Tensor:
        ctx.save_for_backward(x, weight, up, down)
        ctx.s, device = s, x.device.type
        # autograd does not restore the forward pass's autocast state in backward.
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        return x @ _effective(weight, up, down, s).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x, weight, up, down = ctx.saved_tensors
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            outer = grads[0].flatten(0, -2).T @ x.flatten(0, -2)
            slope = outer.mul_(weight != 0).mul_(ctx.s)
            below = grads[0] @ _effective(weight, up, down, ctx.s)
            return below, None, slope @ down.T, up.T @ slope, None


def _effective(weight: Tensor, up: Tensor, down: Tensor, s: float) -> Tensor:
    product = up @ down
    if weight.dtype == torch.bool:
        return product.mul_(weight).mul_(s)
    return torch.addcmul(weight, product.to(weight.dtype), (weight != 0).to(weight.dtype), value=s)


class MaskedLora(lora.Linear):
    """PEFT's LoRA layer of a linear, masked where the weight is zero.

    Attributes:
        on_codes: whether the base weight is 4-bit.
        mask: bool ``[out_features, in_features]``, True where the weight is not zero; None if it
            has no zeros, or if the mask can be read off the weight itself.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, *, config: LoraConfig, **options: Any
    ) -> None:
        super().__init__(base_layer, adapter_name, config=config, **options)
        self.fan_in_fan_out = isinstance(base_layer, Conv1D)
        weight: Tensor = self._base().weight
        self.on_codes = not weight.is_floating_point()
        self.mask: Tensor | None = None
        self.holds_zeros = not self.on_codes and bool((weight == 0).any())

    def start(self, generator: torch.Generator, mask: Tensor | None) -> None:
        """Initialise the adapter: A uniform as in ``nn.Linear``, B zero.

        Args:
            mask: mask of a 4-bit weight that had zeros before quantisation.
        """
        if mask is not None:
            self.mask, self.holds_zeros = mask, True
        up, down = self._learned()
        device, bound = self._base().weight.device, 1 / math.sqrt(down.shape[1])
        # Drawn on the CPU, so that every device starts from the same values.
        first = torch.empty(down.shape).uniform_(-bound, bound, generator=generator)
        self.lora_A[_ADAPTER].weight = nn.Parameter(first.to(device))
        self.lora_B[_ADAPTER].weight = nn.Parameter(torch.zeros(up.shape, device=device))

    @torch.no_grad()
    def added_to(self, stored: Tensor) -> Tensor:
        """The stored weight plus the adapter, added in float32, in the stored dtype."""
        delta = self.get_delta_weight(_ADAPTER).to(stored.device, torch.float32)
        return torch.addcmul(stored.float(), delta, (stored != 0).float()).to(stored.dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Outputs ``[..., out_features]`` of the linear with its adapter."""
        if not self.holds_zeros:
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        product: Tensor = _MaskedProduct.apply(  # type: ignore[no-untyped-call]
            x, self._weight(), *self._learned(), self.scaling[_ADAPTER]
        )
        if self.on_codes:
            below: Tensor = self._base()(x)
            return below + product
        bias = self._base().bias
        return product if bias is None else product + bias

    def _base(self) -> Any:
        return self.get_base_layer()

    def _learned(self) -> tuple[nn.Parameter, nn.Parameter]:
        """B ``[out_features, rank]`` and A ``[rank, in_features]``."""
        name = f"{_ADAPTER}.weight"
        return self.lora_B.get_parameter(name), self.lora_A.get_parameter(name)

    def _weight(self) -> Tensor:
        """The weight ``[out_features, in_features]``, a view; the mask if the weight is 4-bit."""
        if self.mask is not None:
            return self.mask
        weight: Tensor = self._base().weight.detach()
        return weight.T if self.fan_in_fan_out else weight


def attach(
    model: PreTrainedModel,
    modules: Sequence[str],
    *,
    rank: int,
    alpha: float,
    generator: torch.Generator,
    masks: Mapping[str, Tensor] = MappingProxyType({}),
) -> lora.LoraModel:
    """Add adapters to the linears named in ``modules``, in place, and freeze everything else.

    Outputs do not change, because B is zero. The global random state is not used. ``masks`` are the
    masks of 4-bit linears, by name.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT only ever divides it
        target_modules=list(modules),
    )
    config._register_custom_module({nn.Linear: MaskedLora, Conv1D: MaskedLora})
    # On the meta device, where PEFT's initialisation does not use the global generator.
    with torch.device("meta"):
        adapted = lora.LoraModel(model, {_ADAPTER: config}, _ADAPTER)
    for name, adapter in adapters(adapted).items():
        adapter.start(generator, masks.get(name))
    return adapted


def adapters(adapted: lora.LoraModel) -> dict[str, MaskedLora]:
    """The adapters by the name of their linear."""
    every = adapted.model.named_modules()
    return {name: module for name, module in every if isinstance(module, MaskedLora)}
