"""The gguf package, or the extra that installs it."""

from __future__ import annotations

import sys

import gguf
import pytest

from birdbone.checkpoints.gguf_package import require_gguf
from birdbone.errors import MissingExtraError


def test_it_is_the_package_with_its_quantisers() -> None:
    assert require_gguf() is gguf
    assert callable(require_gguf().quants.dequantize)


@pytest.mark.parametrize("name", ["gguf", "gguf.quants"])
def test_without_it_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'birdbone\[gguf\]'"):
        require_gguf()
