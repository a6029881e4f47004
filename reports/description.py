"""The report of ``birdbone inspect``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .inspection import BlockGroup, Inspection, done_to
from .inventory import Inventory
from .source_contents import left_out_lines
from .units import in_bytes

_NAMES_SHOWN = 8


def inspection_report(found: Inspection) -> RenderableType:
    """Facts about the model, its blocks, and the steps that made it."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(found):
        facts.add_row(Text(name), Text(value))
    parts: list[RenderableType] = [facts, *map(_block_table, found.blocks)]
    done = list(done_to(found))
    if done:
        parts.append(Text("History"))
        parts += [Text(f"  {line}") for line in done]
    return Group(*parts)


def _facts(found: Inspection) -> list[tuple[str, str]]:
    stored = ", ".join(f"{in_bytes(size)} {dtype}" for dtype, size in found.stored_bytes.items())
    facts = [
        ("model", found.name),
        ("architecture", f"{found.architecture} ({found.model_type})"),
        ("blocks", f"{found.num_blocks} in {found.path}"),
        ("parameters", f"{found.parameters:,}"),
        ("weights on disk", f"{found.weight_bytes:,} bytes ({in_bytes(found.weight_bytes)})"),
        ("stored as", stored),
        ("in the model", f"{found.contents.model_bytes:,} bytes of them"),
        ("once loaded", _loaded(found)),
        ("output head", "tied to the embedding" if found.tied else "separate weights"),
        *_contents(found.contents),
    ]
    if found.zero_share is not None:
        facts.append(("zeros", f"{found.zero_share:.2%} of the parameters"))
    return facts


def _loaded(found: Inspection) -> str:
    """The bytes of the model in memory, and what load makes of quantised weights."""
    contents = found.contents
    told = f"{contents.loaded_bytes:,} bytes ({in_bytes(contents.loaded_bytes)})"
    if contents.codes is None:
        return told
    how = f"{contents.codes.weights} quantised weights are read as {contents.codes.dtype} values"
    kept = "; load(dequantize=False) keeps the codes" if contents.codes.kept else ""
    return f"{told}: {how}{kept}"


def _contents(found: Inventory) -> Iterator[tuple[str, str]]:
    """What else the source holds: a line for each thing there is."""
    if found.chosen is not None:
        yield "weight files", found.chosen
    if found.duplicate_bytes:
        yield "stored twice", f"{found.duplicate_bytes:,} bytes of tied weights"
    if found.unused:
        count, size = len(found.unused), sum(found.unused.values())
        listed = _listed(found.unused_groups)
        yield "unused, carried", f"{count} tensors ({size:,} bytes) without a parameter: {listed}"
    if found.carried:
        size = sum(found.carried.values())
        yield "files carried", f"{_listed(found.carried)} ({size:,} bytes)"
    if found.from_header:
        yield "from the header", f"{', '.join(found.from_header)}: carried"
    for line in left_out_lines(found.left_out):
        yield "left out", line


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _block_table(group: BlockGroup) -> Table:
    which = f"block {group.first}"
    if group.last > group.first:
        which = f"blocks {group.first} to {group.last}, each"
    table = Table(which, "out × in", "weights")
    for linear in group.linears:
        count = f"{linear.count} × " if linear.count > 1 else ""
        weights = linear.out_features * linear.in_features * linear.count
        shape = f"{count}{linear.out_features} × {linear.in_features}"
        table.add_row(Text(linear.name), shape, f"{weights:,}")
    return table
