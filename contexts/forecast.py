"""What a run is expected to cost before it starts, per link and in total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..texts import SourceReport


@dataclass(frozen=True)
class Forecast:
    """The estimate of one link: what it adds, in outline, and how much work that is.

    Attributes:
        adds: context keys as the link would leave them: shapes without values.
        guessed: the sizes of what it adds are unknown before it ran; estimates of later links then
            refuse nothing.
        notes: remarks on these figures, a short sentence each.
        block_passes: forward passes of one window through one block.
        head_passes: passes of one window through what follows the blocks, to logits.
        gram_passes: times one window's inputs are summed into the Gram matrices of one block.
        solves: blocks whose Hessians are factorised, one for each distinct input.
        products: blocks whose weights, ``[out_features, in_features]``, are multiplied by a square
            matrix of their width, as in one step of a solver.
        decoded_tokens: tokens decoded one by one.
        starts: fresh processes started.
        moved_bytes: bytes read, written or hashed, each time counted.
        seconds: wall time of anything else that takes long.
        memory_bytes: peak memory beyond the context, on the device the link computes on.
        host_bytes: peak memory beyond the context that is in the machine's memory even if the link
            computes on a GPU, such as a file being decoded.
        process_bytes: peak memory of the fresh processes.
        disk_bytes: bytes on disk when the link is done.
        passing_disk_bytes: further bytes on disk while it runs.
        texts: what the sources of text hold.
    """

    adds: Mapping[str, Any] = field(default_factory=dict)
    guessed: bool = False
    notes: tuple[str, ...] = ()
    block_passes: float = 0.0
    head_passes: float = 0.0
    gram_passes: float = 0.0
    solves: float = 0.0
    products: float = 0.0
    decoded_tokens: int = 0
    starts: int = 0
    moved_bytes: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0
    host_bytes: int = 0
    process_bytes: int = 0
    disk_bytes: int = 0
    passing_disk_bytes: int = 0
    texts: tuple[SourceReport, ...] = ()

    def then(self, other: Forecast) -> Forecast:
        """Both, one after the other: work adds up, peak memory is the larger of the two."""
        added = {name: getattr(self, name) + getattr(other, name) for name in _ADDED}
        held = {name: max(getattr(self, name), getattr(other, name)) for name in _HELD}
        adds = {**self.adds, **other.adds}
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        guessed = self.guessed or other.guessed
        texts = (*self.texts, *other.texts)
        return Forecast(adds=adds, guessed=guessed, notes=notes, texts=texts, **added, **held)


_HELD = ("memory_bytes", "host_bytes", "process_bytes", "passing_disk_bytes")
_OTHER = ("adds", "guessed", "notes", "texts")
_ADDED = tuple(each.name for each in fields(Forecast) if each.name not in (*_HELD, *_OTHER))


@dataclass(frozen=True)
class Speed:
    """Speed of this machine on this model, in seconds, measured on one block.

    Attributes:
        block: one window through one block.
        head: one window to logits.
        gram: one window's inputs summed into a block's Grams.
        solve: factorising the Hessians of one block.
        product: its weights multiplied by squares of their width.
        token: one token decoded, all blocks and the head.
        start: a fresh process that imports what it needs.
        byte: moving a byte to or from a disk, or hashing it.
        window: tokens in the window that was timed.
    """

    block: float
    head: float
    gram: float
    solve: float
    product: float
    token: float
    start: float
    byte: float
    window: int

    def seconds(self, forecast: Forecast) -> float:
        """Expected wall seconds of a link."""
        return (
            forecast.block_passes * self.block
            + forecast.head_passes * self.head
            + forecast.gram_passes * self.gram
            + forecast.solves * self.solve
            + forecast.products * self.product
            + forecast.decoded_tokens * self.token
            + forecast.starts * self.start
            + forecast.moved_bytes * self.byte
            + forecast.seconds
        )


@dataclass(frozen=True)
class Expected:
    """One link's expected cost.

    Attributes:
        link: its name; ``settings``: all of them.
        seconds: wall time; None if unknown.
        peak_bytes: peak memory of this process where it computes, the context included.
        process_bytes: peak memory of fresh processes.
        disk_bytes: bytes left on disk; ``passing_disk_bytes``: further bytes while it runs.
        writes: the folder it writes, or None.
        guessed: depends on sizes that are unknown before the run.
        notes: remarks on these figures.
        host_bytes: peak of the machine's memory if the run computes on an accelerator, else 0.
    """

    link: str
    settings: Mapping[str, Any]
    seconds: float | None
    peak_bytes: int
    process_bytes: int = 0
    disk_bytes: int = 0
    passing_disk_bytes: int = 0
    writes: str | None = None
    guessed: bool = False
    notes: tuple[str, ...] = ()
    host_bytes: int = 0


@dataclass(frozen=True)
class Preflight:
    """The estimate of a whole run.

    Attributes:
        links: expected costs in running order, as far as they can be estimated.
        speed: what the times are based on; None if no block could be timed, and then no time
            is known.
        free_bytes: memory available where this run computes, including what this process holds.
        seconds: wall time of the preflight itself.
        blind_from: the first link without an estimate; nothing is known of it and later links.
        cautions: warnings about this run.
        texts: what the sources of text hold.
        model_bytes: of the original model's tensors; 0 if no model is loaded.
    """

    links: tuple[Expected, ...]
    speed: Speed | None
    free_bytes: int
    seconds: float
    blind_from: str | None = None
    cautions: tuple[str, ...] = ()
    texts: tuple[SourceReport, ...] = ()
    model_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the link that needs most, its fresh processes included."""
        return max((each.peak_bytes + each.process_bytes for each in self.links), default=0)

    @property
    def run_seconds(self) -> float | None:
        """Wall time of all links; None if unknown."""
        known = [each.seconds for each in self.links if each.seconds is not None]
        return sum(known) if len(known) == len(self.links) else None
