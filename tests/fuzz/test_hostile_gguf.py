"""GGUF files with damaged headers and hostile values in them, looked at and opened."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fuzz.hostile import WORDS, examples, flipped
from fuzz.sandbox import Sandbox
from gguf import GGUFReader, GGUFValueType
from hypothesis import given
from hypothesis import strategies as st
from tiny_gguf import gguf_checkpoint

from birdbone.formats.gguf_writer import write_gguf

KINDS = ("llama", "llama 3 rope", "llama yarn", "qwen3", "gemma3", "phi3 long", "gpt2")
LOOKS = st.sampled_from(["inspect", "inspect --json", "load", "load"])
# How a value is packed, and what it may be.
_VALUES: Mapping[GGUFValueType, tuple[str, st.SearchStrategy[Any]]] = {
    GGUFValueType.UINT32: ("<I", st.integers(0, 2**32 - 1)),
    GGUFValueType.INT32: ("<i", st.integers(-(2**31), 2**31 - 1)),
    GGUFValueType.FLOAT32: ("<f", st.floats(width=32)),
    GGUFValueType.UINT64: ("<Q", st.integers(0, 2**64 - 1)),
    GGUFValueType.BOOL: ("<B", st.integers(0, 255)),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files with nothing wrong in them, by architecture."""
    root = tmp_path_factory.mktemp("gguf")
    checkpoints = {kind: gguf_checkpoint(kind) for kind in KINDS}
    return {
        kind: write_gguf(made, root / f"{kind}.gguf", kind="q8_0").path
        for kind, made in checkpoints.items()
    }


def looked_at(sandbox: Sandbox, content: bytes, command: str) -> None:
    path = sandbox.given / "model.gguf"
    path.write_bytes(content)
    if command == "load":
        recipe = sandbox.given / "recipe.yaml"
        recipe.write_text("links: [load]\n")
        sandbox.attempt("run", "--recipe", recipe, "--model", path, "--quiet")
    else:
        sandbox.attempt(*command.split(), path)


@given(data=st.data(), kind=st.sampled_from(KINDS), command=LOOKS)
@examples(0.1)
def test_damaged_bytes(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, kind: str, command: str
) -> None:
    content = sound[kind].read_bytes()
    header = GGUFReader(sound[kind]).data_offset
    first = data.draw(st.sampled_from([32, 400, header, len(content)]))
    looked_at(sandbox, data.draw(flipped(content, within=first)), command)


@given(data=st.data(), kind=st.sampled_from(KINDS), command=LOOKS)
@examples(0.14)
def test_hostile_values(
    sandbox: Sandbox, sound: Mapping[str, Path], data: st.DataObject, kind: str, command: str
) -> None:
    """Sound files but for one to three numbers, words or types that stand in them."""
    fields = [
        field
        for name, field in GGUFReader(sound[kind]).fields.items()
        if not name.startswith("GGUF.")  # the file's own three numbers, which have no names in it
    ]
    content = bytearray(sound[kind].read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from(fields), label="field")
        after_name = field.offset + 8 + len(field.name.encode())
        _exchange(data, content, after_name, field.types[0])
    looked_at(sandbox, bytes(content), command)


def _exchange(data: st.DataObject, content: bytearray, place: int, kind: GGUFValueType) -> None:
    """At ``place`` stand a field's kind, 4 bytes, and its value."""
    if data.draw(st.integers(0, 4), label="another kind where 0") == 0:
        struct.pack_into("<I", content, place, data.draw(st.integers(0, 14)))
    elif kind in _VALUES:
        form, values = _VALUES[kind]
        struct.pack_into(form, content, place + 4, data.draw(values))
    elif kind == GGUFValueType.STRING:
        word = data.draw(st.sampled_from(WORDS)).encode("utf-8", "surrogatepass")
        length = struct.unpack_from("<Q", content, place + 4)[0]
        content[place + 12 : place + 12 + length] = word[:length].ljust(length, b" ")
