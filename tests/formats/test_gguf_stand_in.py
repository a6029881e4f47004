"""A file without values is like the file with values in everything that speed depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader
from tiny_choices import gguf_choices
from tiny_gguf import VARIANTS, gguf_checkpoint

from birdbone.formats.gguf_size import gguf_bytes
from birdbone.formats.gguf_stand_in import write_stand_in
from birdbone.formats.gguf_writer import write_gguf
from birdbone.links.allocating.choices import outlined_candidate
from birdbone.links.allocating.uniform import uniform_types


@pytest.mark.filterwarnings("ignore:.*the blocks of q8_0 do not divide their width")
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_tensors(variant: str, tmp_path: Path) -> None:
    checkpoint = gguf_checkpoint(variant)
    write_stand_in(checkpoint, tmp_path / "without.gguf", kind="q8_0")
    write_gguf(checkpoint, tmp_path / "with.gguf", kind="q8_0")
    without, whole = (GGUFReader(tmp_path / f"{name}.gguf") for name in ("without", "with"))
    assert [_described(each) for each in without.tensors] == [
        _described(each) for each in whole.tensors
    ]
    assert without.fields.keys() == whole.fields.keys()
    assert not any(each.data.any() for each in without.tensors)
    assert (tmp_path / "without.gguf").stat().st_size == (tmp_path / "with.gguf").stat().st_size


def test_outline(tmp_path: Path) -> None:
    """Of a candidate, whose weights do not exist yet."""
    choices = gguf_choices("llama tied")
    candidate = next(uniform_types(choices))
    outline = outlined_candidate(choices.checkpoint, candidate)
    write_stand_in(outline, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").stat().st_size == gguf_bytes(outline)
    kinds = {each.tensor_type.name.lower() for each in GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds == {"f32", *(str(grid.ggml_type) for grid in candidate.grids.values())}


def _described(tensor: object) -> tuple[object, ...]:
    return tuple(str(getattr(tensor, name)) for name in ("name", "shape", "tensor_type", "n_bytes"))
