"""What a run is expected to cost before it starts, link by link, and what it turned out to cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Forecast:
    """What one link says of itself: what it would add, in outline, and how much work that is.

    Attributes:
        adds: context keys as the link would leave them: shapes without values.
        guessed: sizes of what it adds are not known before it ran; what is said of links after it
            then refuses nothing.
        notes: what a reader must know of these figures, a short sentence each.
        block_passes: times one window goes through one block.
        head_passes: times one window goes through what follows the blocks, to logits.
        gram_passes: times one window's inputs are summed into the Grams of one block.
        solves: blocks whose Hessians are factorised, one for each distinct input.
        products: blocks whose weights, ``[out_features, in_features]``, are multiplied by a square
            of their width, as a solver's steps do.
        decoded_tokens: tokens decoded one by one.
        starts: fresh processes started.
        moved_bytes: read, written or hashed, each time counted.
        seconds: of whatever else takes long.
        need_bytes: memory at its peak beyond its context, where `memory` does not say it.
        process_bytes: memory that fresh processes of this link hold at their peak.
        disk_bytes: on the disk when the link is done.
        passing_disk_bytes: on the disk beside that while it runs.
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
    need_bytes: int = 0
    process_bytes: int = 0
    disk_bytes: int = 0
    passing_disk_bytes: int = 0

    def then(self, other: Forecast) -> Forecast:
        """Both, one after the other: work adds up, what is held at a time does not."""
        added = {name: getattr(self, name) + getattr(other, name) for name in _ADDED}
        held = {name: max(getattr(self, name), getattr(other, name)) for name in _HELD}
        adds = {**self.adds, **other.adds}
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        guessed = self.guessed or other.guessed
        return Forecast(adds=adds, guessed=guessed, notes=notes, **added, **held)


_HELD = ("need_bytes", "process_bytes", "passing_disk_bytes")
_TOLD = ("adds", "guessed", "notes")
_ADDED = tuple(each.name for each in fields(Forecast) if each.name not in (*_HELD, *_TOLD))


@dataclass(frozen=True)
class Speed:
    """How fast this machine is with this model, in seconds, measured on one block.

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
        """Wall seconds of a link that says this of itself."""
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
        seconds: wall time; None where it is not known.
        peak_bytes: of this process, what the context holds included.
        process_bytes: of fresh processes beside it.
        disk_bytes: left on the disk; ``passing_disk_bytes``: beside that meanwhile.
        writes: the folder it writes, or None.
        guessed: rests on sizes that are not known before the run.
        notes: what a reader must know of these figures.
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


@dataclass(frozen=True)
class Preflight:
    """What was found out before a run.

    Attributes:
        links: expected costs, in running order, as far as could be seen.
        speed: what the times rest on; None where no block could be timed, and then no time is
            known.
        free_bytes: memory that is free for this run, what this process holds already included.
        seconds: the preflight itself took.
        blind_from: the first link of which nothing is known, after which nothing can be seen.
        cautions: what the run may stumble over.
    """

    links: tuple[Expected, ...]
    speed: Speed | None
    free_bytes: int
    seconds: float
    blind_from: str | None = None
    cautions: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """Of the link that needs most, its fresh processes included."""
        return max((each.peak_bytes + each.process_bytes for each in self.links), default=0)

    @property
    def run_seconds(self) -> float | None:
        """Of all links; None where that is not known."""
        known = [each.seconds for each in self.links if each.seconds is not None]
        return sum(known) if len(known) == len(self.links) else None
