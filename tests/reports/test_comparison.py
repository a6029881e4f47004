"""The report of a comparison: groups of tensors, pairs, and what is left out."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from birdbone.reports.comparison import comparison_report


def change(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "relative": 0.5,
        "greatest": 1.0,
        "zeros": (0.0, 0.5),
        "shapes": ((4, 8), (4, 8)),
        "kinds": ("float32", "int4"),
        **more,
    }


def text(*, every: bool = False, **more: Any) -> str:
    """The report as it is printed."""
    file = io.StringIO()
    found = {
        "changed": [],
        "added": [],
        "removed": [],
        "config": {},
        "files": [],
        "num_same": 3,
        "parameters": (1200, 1000),
        "num_bytes": (4_000_000, 2_000_000),
        **more,
    }
    Console(width=100, file=file).print(comparison_report(found, every=every))
    return file.getvalue()


def test_totals_stand_alone_where_nothing_changed() -> None:
    lines = [line.split() for line in text().splitlines()]
    assert ["tensors", "0", "changed,", "3", "the", "same"] in lines
    assert ["parameters", "1,200", "→", "1,000"] in lines
    assert len(lines) == 3


def test_tensors_of_all_blocks_share_a_line_with_their_spread() -> None:
    found = text(
        changed=[
            change("layers.0.up.weight", relative=0.25),
            change("layers.1.up.weight", relative=0.75, zeros=(0.0, 1.0)),
        ]
    )
    assert "layers.*.up.weight (2)" in found
    assert "4 × 8, float32 → int4, zeros 0.00% → 75.00%, changed by 0.25 to 0.75" in found


def test_tensors_of_other_shapes_or_kinds_do_not() -> None:
    changes = [change("layers.0.up"), change("layers.1.up", shapes=((4, 8), (2, 8)))]
    found = text(changed=[each | {"name": f"{each['name']}.weight"} for each in changes])
    assert found.count("layers.*.up.weight") == 2
    assert "4 × 8 → 2 × 8" in found
    each = text(changed=[change("layers.0.up.w"), change("layers.1.up.w")], every=True)
    assert "layers.0.up.w\n" in each
    assert "layers.1.up.w\n" in each


def test_a_change_of_shape_has_no_relative_error() -> None:
    assert "changed by" not in text(changed=[change("a", relative=None)])
    assert "one value" in text(changed=[change("a", shapes=((), ()))])


def test_added_removed_config_and_files_are_listed() -> None:
    found = text(
        added=["layers.0.a.w", "layers.1.a.w"],
        removed=["b"],
        config={"dtype": ("float32", None)},
        files=["tokenizer.json"],
    )
    assert "tensors added: layers.*.a.w (2)" in found
    assert "tensors removed: b" in found
    assert "float32" in found
    assert "None" in found
    assert "files that differ: tokenizer.json" in found
