"""The chain of birdbone export: what it loads as codes, and what it leaves to save."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_folders import quantized, written
from tiny_gguf import gguf_checkpoint

from birdbone.chains.exporting import export_chain


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(quantized(gguf_checkpoint("llama")), tmp_path_factory.mktemp("packed") / "light")


@pytest.mark.parametrize(
    ("format", "type", "keeps_codes", "kind"),
    [
        ("gguf", None, True, None),
        ("gguf", "q8_0", False, "q8_0"),
        ("compressed-tensors", None, True, None),
        ("safetensors", None, False, None),
    ],
)
def test_codes_are_kept_where_no_type_is_given_and_the_format_has_codes(
    format: str, type: str | None, keeps_codes: bool, kind: str | None, packed: Path
) -> None:
    chain = export_chain(model=str(packed), out="out", format=format, type=type)
    first, *_, last = chain.links
    assert first.settings["dequantize"] is not keeps_codes
    assert last.settings["kind"] == kind
