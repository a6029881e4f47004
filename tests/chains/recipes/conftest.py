"""Recipe files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from birdbone.chains import Recipe, load_recipe


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """A function that writes a recipe file and reads it."""

    def write(text: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load_recipe(path)

    return write
