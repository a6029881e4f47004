"""Strategies for hostile input: junk, documents with something wrong in them, damaged bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

BOMBS = (
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 5000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b"",
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 64,
)
"""What readers of JSON and YAML are known to fall over."""

WORDS = (
    "",
    ".",
    "..",
    "../../outside",
    "/etc/passwd",
    "~",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "package:os/x.gguf",
    "hub/name",
    "self",
    "__class__",
    "__init__",
    "float32",
    "torch.float32",
    "float8_e4m3fn",
    "no_such_dtype",
    "modeling_evil.Evil",
    "!!python/name:os.system",
    "{}",
    "%s%n",
    "NaN",
    "\x1b[2J",
    "[red]x[/nope]",
)
"""Text that has a meaning somewhere."""

numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308]),
    st.integers(-(2**70), 2**70),
    st.floats(),
)
plain = st.one_of(st.none(), st.booleans(), numbers, st.sampled_from(WORDS), st.text(max_size=6))
junk = st.recursive(
    plain,
    lambda inside: st.lists(inside, max_size=4)
    | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inside, max_size=3),
    max_leaves=8,
)


def examples(share: float = 1.0) -> settings:
    """How many inputs a test draws: a tenth of what the profile says, or of a share of it.

    A profile is chosen on the command line: ``--hypothesis-profile=hostile`` is the whole.
    """
    return settings(max_examples=max(5, int(settings.default.max_examples * share)))


@st.composite
def damaged(draw: st.DrawFn, document: Any, keys: Sequence[str] = ()) -> Any:
    """A JSON document with one to three things wrong: values exchanged, keys gone, added, moved."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            return draw(junk)
        holder, key = draw(st.sampled_from(places))
        _damage(draw, holder, key, keys)
    return changed


def _places(document: Any) -> Any:
    """Every (container, key) in a document."""
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield document, key
            yield from _places(value)


def _damage(draw: st.DrawFn, holder: Any, key: Any, keys: Sequence[str]) -> None:
    kind = draw(st.sampled_from(["exchange", "exchange", "remove", "add", "near", "wrap"]))
    if kind == "remove":
        del holder[key]
    elif kind == "add" and isinstance(holder, dict):
        name = draw(st.sampled_from([*keys, *holder]) if keys or holder else st.text(max_size=4))
        holder[name] = draw(junk)
    elif kind == "wrap":
        holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}, str(holder[key])]))
    elif kind == "near" and isinstance(holder[key], int):
        holder[key] = holder[key] + draw(st.sampled_from([-1, 1, 2, -3, 10**6, 10**12]))
    else:
        holder[key] = draw(junk)


@st.composite
def flipped(draw: st.DrawFn, data: bytes, *, within: int | None = None) -> bytes:
    """Bytes with some exchanged, cut out, put in, or cut short; in the first ``within`` of them."""
    room = min(len(data), within or len(data))
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(room - 1, 0)))
        kind = draw(st.sampled_from(["bit", "byte", "word", "cut", "insert", "end"]))
        if kind == "bit" and place < len(changed):
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            changed[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "word":
            word = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1]))
            changed[place : place + 8] = word.to_bytes(8, "little")
        elif kind == "cut":
            del changed[place : place + draw(st.integers(1, 16))]
        elif kind == "insert":
            changed[place:place] = draw(st.binary(min_size=1, max_size=8))
        else:
            del changed[place:]
    return bytes(changed)


def hostile_json(document: Any, keys: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    """Files where a JSON document is expected."""
    text = json.dumps(document).encode()
    return st.one_of(
        damaged(document, keys).map(_dumped),
        damaged(document, keys).map(_dumped),
        damaged(document, keys).map(_dumped),
        junk.map(_dumped),
        flipped(text),
        st.binary(max_size=60),
        st.sampled_from(BOMBS),
    )


def _dumped(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")
