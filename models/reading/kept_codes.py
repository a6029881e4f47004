"""Quantised weights of a folder kept as they are, so that saving them is lossless."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from ...checkpoints import Checkpoint, Quantized, TensorRef
from ...errors import SettingError
from ..codecs.float4 import Float4
from ..codecs.float8 import Float8
from ..codecs.unpacked import Unpacked, is_kept
from .converted import Conversion, Made
from .quantized import COMPRESSED_TENSORS

ReadCodes = Callable[[Unpacked], Quantized]


def with_codes(checkpoint: Checkpoint, label: str) -> Checkpoint:
    """The same as `Quantized` weights instead of dequantised values.

    Raises:
        SettingError: the weights cannot be kept quantised.
    """
    packed = {n: ref for n, ref in checkpoint.refs.items() if isinstance(ref, Unpacked)}
    for name, ref in packed.items():
        if not is_kept(ref.inputs, ref.block_size):
            raise SettingError(
                f"'{label}' rounds the inputs of '{name.removesuffix('.weight')}' in a way that is "
                f"not kept; only dynamic scales, symmetric and of 8 bits, are, per token or per "
                f"group as wide as the blocks of the weight: leave dequantize on"
            )
    codes = codes_of(checkpoint.refs, Unpacked.codes)
    if not codes or any(isinstance(ref, Float8 | Float4) for ref in checkpoint.refs.values()):
        raise SettingError(
            f"the quantised weights of '{label}' cannot be kept, only dequantised; leave "
            f"dequantize on: only integers and float8 with one scale per row or square "
            f"block of {COMPRESSED_TENSORS} can be kept"
        )
    return replace(checkpoint, refs={**checkpoint.refs, **codes})


def codes_of(refs: Mapping[str, TensorRef], read: ReadCodes) -> dict[str, Quantized]:
    """The parameters that are quantised weights, or made from such alone, as experts are.

    Args:
        refs: parameters by name, as `converted` returns them.
        read: returns the codes of one weight of the folder, or their outline.
    """
    found: dict[str, Quantized] = {}
    for name, ref in refs.items():
        if isinstance(ref, Unpacked):
            found[name] = read(ref)
        elif isinstance(ref, Made) and name not in found:
            found.update(_joined(ref.conversion, read))
    return found


def _joined(conversion: Conversion, read: ReadCodes) -> dict[str, Quantized]:
    """What a conversion makes of codes, by parameter; nothing if they are not all of one kind."""
    names = {id(ref): name for _, name, ref in conversion.sources}
    given = {name: read(ref) for _, name, ref in conversion.sources if isinstance(ref, Unpacked)}
    kinds = {
        (each.bits, each.symmetric, each.block_size, each.input_activations)
        for each in given.values()
    }
    if len(given) != len(conversion.sources) or len(kinds) != 1:
        return {}

    def made(part: str) -> dict[str, Tensor]:
        return conversion.apply(lambda ref, dtype: given[names[id(ref)]].parts()[part])

    ((bits, symmetric, block_size, inputs),) = kinds
    if block_size is not None:
        return {}
    codes, scales, zeros = made("codes"), made("scales"), {} if symmetric else made("zero_points")
    return {
        name: Quantized(
            codes[name],
            scales[name],
            bits=bits,
            zero_points=zeros.get(name),
            input_activations=inputs,
        )
        for name in codes
    }
