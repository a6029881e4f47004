"""Run folders that somebody else made: outcomes, manifests, objects, work in progress, the lists.

A checksum detects damage, not malice: what is changed here gets a new checksum.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.hostile import damaged, examples, flipped, hostile_json
from fuzz.sandbox import Sandbox
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint
from tiny_folders import written

from birdbone.chains import build, load_recipe
from birdbone.checkpoints.manifest import encode_manifest
from birdbone.engine import run
from birdbone.journal import RunFolder

RECIPE = """
links:
  - load
  - calibrate: {length: 8, windows: 2, healing_windows: 1, heldout_windows: 1}
  - profile
  - score
  - prune: {sparsity: 0.5}
  - quantize: {group_size: 32}
"""
KEYS = ("record", "fields", "tuple", "map", "float", "path", "tensor", "checkpoint", "source")
LOOKS = (
    "log RUN",
    "log RUN --json",
    "log RUN --export 5 --out OUT",
    "log RUN --export 4 --out OUT",
    "revert RUN 6 --out OUT",
    "diff RUN:5 RUN:6",
    "diff RUN:1 RUN:6 --json",
    "gc RUN",
    "gc RUN --superseded --dry-run",
    "gc RUN --superseded",
    "AGAIN",
    "AGAIN",
)
GROUPS = ("outcomes/*.json", "outcomes/*.json", "manifests/*.json", "last.json", "*.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a text, a recipe, and the folder of a finished run of them."""
    root = tmp_path_factory.mktemp("made")
    written(tiny_checkpoint(), root / "model")
    (root / "text").mkdir()
    for place in range(12):
        words = f"the {place} of them all and the other {place} " * 4
        (root / "text" / f"{place}.txt").write_text(words)
    (root / "recipe.yaml").write_text(RECIPE)
    chain = build(
        load_recipe(root / "recipe.yaml"), model=str(root / "model"), data=str(root / "text")
    )
    with RunFolder(root / "run") as store:
        asyncio.run(run(chain, store=store))
    return root


def attempted(sandbox: Sandbox, made: Path, look: str, spoil: Callable[[Path], None]) -> None:
    """A command on a private copy of the run folder with something in it spoilt."""
    folder = sandbox.allowed / "run"
    sandbox.fresh_output()
    shutil.copytree(made / "run", folder, copy_function=os.link)
    spoil(folder)
    if look == "AGAIN":
        options = ("--model", made / "model", "--data", made / "text", "--run", folder)
        sandbox.attempt("run", "--recipe", made / "recipe.yaml", "--quiet", *options)
        return
    words = look.replace("RUN", str(folder)).replace("OUT", str(sandbox.out))
    sandbox.attempt(*words.split())


@given(data=st.data(), look=st.sampled_from(LOOKS), group=st.sampled_from(GROUPS))
@examples(0.06)
def test_documents_sealed_anew(
    sandbox: Sandbox, made: Path, data: st.DataObject, look: str, group: str
) -> None:
    def spoil(folder: Path) -> None:
        path = data.draw(st.sampled_from(sorted(folder.glob(group))))
        document = json.loads(path.read_text())["manifest"]
        _exchange(path, _sealed(data.draw(damaged(document, KEYS))))

    attempted(sandbox, made, look, spoil)


def _exchange(path: Path, content: bytes | None) -> None:
    """The folder is one of links to the same files: what is spoilt is made anew."""
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def _sealed(document: Any) -> bytes:
    return (
        encode_manifest(document) if isinstance(document, dict) else json.dumps(document).encode()
    )


@given(data=st.data(), look=st.sampled_from(LOOKS))
@examples(0.02)
def test_documents_damaged(sandbox: Sandbox, made: Path, data: st.DataObject, look: str) -> None:
    def spoil(folder: Path) -> None:
        path = data.draw(st.sampled_from(sorted(folder.rglob("*.json"))))
        _exchange(path, data.draw(hostile_json(json.loads(path.read_text()))))

    attempted(sandbox, made, look, spoil)


@given(data=st.data(), look=st.sampled_from(LOOKS))
@examples(0.02)
def test_objects_damaged(sandbox: Sandbox, made: Path, data: st.DataObject, look: str) -> None:
    def spoil(folder: Path) -> None:
        paths = sorted([*folder.glob("objects/*/*"), *folder.glob("files/*")])
        path = data.draw(st.sampled_from(paths))
        content = path.read_bytes()
        changed = data.draw(st.none() | flipped(content, within=300) | flipped(content))
        _exchange(path, changed)

    attempted(sandbox, made, look, spoil)
