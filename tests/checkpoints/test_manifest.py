"""A manifest comes back as it was, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.checkpoints import manifest
from birdbone.checkpoints.manifest import decode_manifest, encode_manifest

CONTENT = {"tensors": {"b": 1, "a": [2, None]}, "source": "tiny"}


def test_content_and_its_order_come_back() -> None:
    found = decode_manifest(encode_manifest(CONTENT))
    assert {name: found[name] for name in CONTENT} == CONTENT
    assert list(found["tensors"]) == ["b", "a"]


@given(place=st.integers(0, len(encode_manifest(CONTENT)) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_what_is_read(place: int, bit: int) -> None:
    """It is refused, unless the bit means nothing to JSON, as in a blank."""
    data = bytearray(encode_manifest(CONTENT))
    data[place] ^= 1 << bit
    try:
        found = decode_manifest(bytes(data))
    except (ValueError, LookupError, TypeError):
        return
    assert found == decode_manifest(encode_manifest(CONTENT))


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_VERSION", 2)
        data = encode_manifest(CONTENT)
    with pytest.raises(ValueError, match="it has version 2, this store reads 1"):
        decode_manifest(data)
