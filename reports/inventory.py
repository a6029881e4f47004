"""What becomes of everything that the source of a model holds, from headers and file sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from ..checkpoints import LeftOut, TensorRef
from ..checkpoints.shards import chosen_weights, shard_paths
from ..models.blocks.empty_model import tied_parameters
from ..models.blocks.parameter_names import parameter_finder
from ..models.reading.folder_files import licence_files, sorted_files
from ..models.reading.gguf_card import card_of_header
from ..models.reading.gguf_header import read_headers
from ..models.reading.gguf_unread import unread_tensors
from ..models.reading.opening import keeps_codes
from ..models.reading.quantized import activation_scales, dequantised_dtype, weight_of
from ..models.reading.sources import Source
from ..models.reading.tied_weights import tied_names
from ..models.reading.unused import grouped, quantised_parameters, unused_tensors

_TOKENS, _TEMPLATE = "tokenizer.ggml.tokens", "tokenizer.chat_template"
_FLOAT32_BYTES = 4  # load reads every tensor of a GGUF file as float32


@dataclass(frozen=True)
class Codes:
    """The weights that a folder stores quantised, which load reads as plain values.

    Attributes:
        weights: how many parameters they are.
        stored_bytes: of codes, scales and what else stands for them.
        dtype: of the values.
        kept: whether load(dequantize=False) keeps them as they are.
    """

    weights: int
    stored_bytes: int
    dtype: str
    kept: bool


@dataclass(frozen=True)
class Inventory:
    """The tensors and files of a source by what `load` makes of them.

    Attributes:
        model_bytes: of tensors that parameters of the model are loaded from.
        loaded_bytes: of the parameters once they are loaded, as plain values.
        codes: the weights that are quantised in the folder; None for a dense folder or GGUF.
        duplicate_bytes: of tied tensors that are stored a second time with equal values; stored
            once in a result.
        unused: bytes by name of tensors that the class has no parameters for; carried unchanged.
        unused_groups: how many of them there are by the module they belong to.
        carried: bytes by name of the files beside the weights that are carried.
        from_header: what is carried of a GGUF file's header.
        left_out: what is not carried.
        chosen: which of two sets of weight files is read, in words; None where there is one.
    """

    model_bytes: int
    loaded_bytes: int
    codes: Codes | None = None
    duplicate_bytes: int = 0
    unused: Mapping[str, int] = field(default_factory=dict)
    unused_groups: Mapping[str, int] = field(default_factory=dict)
    carried: Mapping[str, int] = field(default_factory=dict)
    from_header: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    chosen: str | None = None


def inventory(
    source: Source, model: PreTrainedModel, refs: Mapping[str, TensorRef], quantization: object
) -> Inventory:
    """Sort everything a source holds.

    Args:
        model: of the config as the tensors have it, which may be on the meta device.
        refs: the tensors of a folder as it names them; empty for a GGUF model.
        quantization: what its ``config.json`` says under ``quantization_config``.

    Raises:
        ModelError, CheckpointError: its files are damaged.
    """
    if source.gguf is not None:
        return _of_gguf(source, model)
    unused = unused_tensors(model, refs)
    scales = activation_scales(refs) if quantization else []
    find, ties = parameter_finder(model), tied_names(model)
    parameters = model.state_dict()
    names = {find(name)[0]: name for name in refs}
    twice = {names[target] for target, first in ties.items() if {target, first} <= names.keys()}
    sizes = {name: ref.num_bytes for name, ref in refs.items()}
    gone = {*unused, *twice, *(each.name for each in scales)}
    used = {name: size for name, size in sizes.items() if name not in gone}
    codes, loaded_bytes = None, sum(used.values())
    if quantization and (coded := quantised_parameters(model, used)):
        dtype = dequantised_dtype(quantization)
        values_bytes = dtype.itemsize * sum(parameters[name].numel() for name in coded)
        stored = sum(size for name, size in used.items() if find(weight_of(name))[0] in coded)
        loaded_bytes += values_bytes - stored
        word = str(dtype).removeprefix("torch.")
        codes = Codes(len(coded), stored, word, keeps_codes(source))
    read = [path.name for path in shard_paths(source.folder)]
    files, left_out = sorted_files(source.folder, code=False, read=read)
    return Inventory(
        model_bytes=sum(used.values()),
        loaded_bytes=loaded_bytes,
        codes=codes,
        duplicate_bytes=sum(sizes[name] for name in twice),
        unused={name: sizes[name] for name in unused},
        unused_groups=grouped(unused, parameters),
        carried={name: path.stat().st_size for name, path in files.items()},
        left_out=(*left_out, *scales),
        chosen=chosen_weights(source.folder),
    )


def _of_gguf(source: Source, model: PreTrainedModel) -> Inventory:
    """A GGUF model carries its tokenizer inside, and the licences that lie beside it."""
    readers = read_headers(source)
    unread = unread_tensors(readers, model)
    total = sum(int(tensor.n_bytes) for reader in readers for tensor in reader.tensors)
    licences = licence_files(source.folder)
    return Inventory(
        model_bytes=total - sum(each.num_bytes for each in unread),
        loaded_bytes=_FLOAT32_BYTES * num_parameters(model),
        carried={name: len(data) for name, data in licences.items()},
        from_header=tuple(_of_header(readers[0].fields)),
        left_out=tuple(unread),
    )


def num_parameters(model: PreTrainedModel) -> int:
    """Number of parameters of a model; tied ones count once."""
    tied = tied_parameters(model)
    return sum(each.numel() for name, each in model.named_parameters() if name not in tied)


def _of_header(fields: Mapping[str, Any]) -> Iterator[str]:
    """What a result has of the keys of a GGUF header, beside the config."""
    if _TOKENS in fields:
        yield "tokenizer"
    if any(key.startswith(_TEMPLATE) for key in fields):
        yield "chat template"
    if card_of_header(fields, ""):
        yield "licence and origin"
