"""The report of ``birdbone inspect``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .inspection import BlockGroup, Inspection, done_to
from .units import in_bytes


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
        ("output head", "tied to the embedding" if found.tied else "separate weights"),
    ]
    if found.zero_share is not None:
        facts.append(("zeros", f"{found.zero_share:.2%} of the parameters"))
    return facts


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
