"""What may be chosen for every matrix within an allocation, and what a choice takes in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ...checkpoints import Checkpoint, TensorRef
from ...contexts.allocation import Candidate, LinearGrid
from ...contexts.sensitivity import GridLoss, LinearSensitivity, Sensitivity
from ...errors import SettingError
from ...models.blocks.device import stored_dtype
from ...models.blocks.linears import all_linears
from ...models.planning.outline import exchanged, outlined_blocks, outlined_codes
from ...models.planning.stored_bytes import stored_bytes
from ..quantizing.embeddings import EMBEDDING_BITS, outlined_embeddings
from .runtimes import Limits


@dataclass(frozen=True)
class Choices:
    """What may be chosen for each linear, and for the embedding.

    Attributes:
        checkpoint: the model.
        sensitivity: its estimates.
        limits: what the runtimes load.
        bits: bits that may be chosen; None for all that were estimated.
        group_sizes: the same of group sizes.
        embedding_bits: 8, None (as it is), or "auto" for either; not used for a GGUF file.
        types: ggml types that may be chosen for a GGUF file; None for all that were estimated.
    """

    checkpoint: Checkpoint
    sensitivity: Sensitivity
    limits: Limits
    bits: tuple[int, ...] | None
    group_sizes: tuple[int | None, ...] | None
    embedding_bits: int | str | None
    types: tuple[str, ...] | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether the model is to be saved as a GGUF file."""
        return self.sensitivity.format == "gguf"

    @cached_property
    def header_bytes(self) -> int:
        """Bytes of a GGUF file before its tensors."""
        from ...formats.gguf_size import gguf_header_bytes  # needs the extra gguf

        return gguf_header_bytes(self.checkpoint)

    @cached_property
    def kinds(self) -> Mapping[str, list[str]]:
        """Names of the linears that are stored alike, by kind."""
        found: dict[str, list[str]] = {}
        for name, each in self.sensitivity.linears.items():
            found.setdefault(each.kind, []).append(name)
        return found

    def grids(self, linear: LinearSensitivity) -> list[GridLoss]:
        """The grids that a linear may have."""
        return [
            each
            for each in linear.grids
            if (self.bits is None or each.bits in self.bits)
            and (self.types is None or each.ggml_type in self.types)
            and (self.group_sizes is None or each.group_size in self.group_sizes)
            and (self.is_gguf or self.limits.takes(each.bits, each.group_size, linear.shape[1]))
        ]

    @cached_property
    def embeddings(self) -> tuple[int | None, ...]:
        """What the embedding may be stored in: 8 bits, and None for as it is."""
        wanted = (EMBEDDING_BITS, None) if self.embedding_bits == "auto" else (self.embedding_bits,)
        possible = self.sensitivity.embeddings is not None and self.limits.embedding
        found = tuple(each for each in wanted if each is None or possible)
        if not found:
            raise SettingError(
                f"allocate(embedding_bits={self.embedding_bits}) is not possible: "
                + (
                    f"{self.limits} was not seen to load an embedding of 8 bits"
                    if self.sensitivity.embeddings is not None
                    else f"the embedding of '{self.checkpoint.source}' cannot be rounded"
                )
                + "; leave embedding_bits unset"
            )
        return found  # type: ignore[return-value]

    def require_any(self) -> None:
        """Refuse choices that leave a linear without a grid.

        Raises:
            SettingError: naming the linear.
        """
        for name, each in self.sensitivity.linears.items():
            if not self.grids(each) and self.is_gguf:
                raise SettingError(
                    f"'{name}' has {each.shape[1]} columns, and no ggml type is left whose blocks "
                    f"divide them among {sorted(str(g.ggml_type) for g in each.grids)}; allow more "
                    f"types and bits, in sensitivity too"
                )
            if not self.grids(each):
                known = sorted({(g.bits, g.group_size or 0) for g in each.grids})
                raise SettingError(
                    f"layer '{name}' has no grid left that {self.limits} was seen to load among "
                    f"those estimated, (bits, group size; 0: whole row) {known}; allow more bits "
                    f"and group_sizes, in sensitivity too, or fewer runtimes"
                )


def outlined_candidate(checkpoint: Checkpoint, candidate: Candidate) -> Checkpoint:
    """The model as the candidate stores it, without values."""
    made: dict[str, TensorRef] = {}
    flipped = {linear.name for linear in all_linears(checkpoint) if linear.transposed}
    for name, grid in candidate.grids.items():
        if grid.ggml_type is not None:
            made[f"{name}.weight"] = _outlined_type(
                checkpoint, name, grid.ggml_type, transposed=name in flipped
            )
            continue
        ref = checkpoint.refs[f"{name}.weight"]
        groups = 1 if grid.group_size is None else ref.shape[1] // grid.group_size
        made[f"{name}.weight"] = outlined_codes(
            ref, grid.bits, groups, stored_dtype(checkpoint, ref)
        )
    if candidate.embedding_bits is not None:
        made.update(outlined_embeddings(checkpoint))
    return exchanged(checkpoint, made)


def _outlined_type(checkpoint: Checkpoint, name: str, kind: str, *, transposed: bool) -> TensorRef:
    first, second = checkpoint.refs[f"{name}.weight"].shape
    shape = (second, first) if transposed else (first, second)
    return outlined_blocks(shape, kind, transposed=transposed)


def priced(choices: Choices, candidate: Candidate) -> Candidate:
    """The candidate with its size in bytes, to the byte."""
    outline = outlined_candidate(choices.checkpoint, candidate)
    if not choices.is_gguf:
        return replace(candidate, num_bytes=stored_bytes(outline))
    from ...formats.gguf_size import gguf_data_bytes  # needs the extra gguf

    return replace(candidate, num_bytes=choices.header_bytes + gguf_data_bytes(outline))


def smallest_candidate(choices: Choices) -> Candidate:
    """The candidate with the fewest bytes, whatever it costs."""
    grids, loss = {}, 0.0
    for name, each in choices.sensitivity.linears.items():
        least = min(choices.grids(each), key=lambda grid: (grid.num_bytes, grid.loss))
        grids[name] = LinearGrid(least.bits, least.group_size, least.ggml_type)
        loss += least.loss
    bits = EMBEDDING_BITS if EMBEDDING_BITS in choices.embeddings else None
    found = Candidate("smallest", False, grids, bits, 0, loss + embedding_loss(choices, bits))
    return priced(choices, found)


def embedding_loss(choices: Choices, bits: int | None) -> float:
    """Estimated loss of the embedding in 8 bits, or of None, as it is."""
    embeddings = choices.sensitivity.embeddings
    return 0.0 if bits is None or embeddings is None else embeddings.loss


def formats_of(candidate: Candidate) -> str:
    """The grids of a candidate in words."""
    types = {each.ggml_type for each in candidate.grids.values() if each.ggml_type}
    if types:
        return ", ".join(sorted(types))
    pairs = {(each.bits, each.group_size or 0) for each in candidate.grids.values()}
    listed = ", ".join(
        f"{bits} bits and {f'groups of {size}' if size else 'one scale per row'}"
        for bits, size in sorted(pairs)
    )
    embedding = "" if candidate.embedding_bits is None else " and an 8-bit embedding"
    return f"{listed}{embedding}"


def is_known(candidate: Candidate, found: Iterable[Candidate]) -> bool:
    """Whether one of the candidates found stores the model in the same way."""
    return any(_alike(candidate, each) for each in found)


def _alike(one: Candidate, other: Candidate) -> bool:
    return dict(one.grids) == dict(other.grids) and one.embedding_bits == other.embedding_bits
