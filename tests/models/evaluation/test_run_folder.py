"""The program that reads a folder: alone in its process, and it says what is there."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation import run_folder as reread
from birdbone.models.writing.folder import write_model


def request_for(folder: Path, **more: Any) -> dict[str, Any]:
    row = {"tokens": tiny_windows(1).tokens[0].tolist(), "places": [0, 15], "ids": [[1, 2], [3]]}
    return {
        "folder": str(folder),
        "dtype": "float32",
        "device": "cpu",
        "decode_tokens": 5,
        "trust_remote_code": False,
        "windows": [row],
        **more,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    write_model(tiny_checkpoint(), made, max_shard_bytes=1 << 30)
    return made


def test_what_it_reads_is_what_the_model_computes(folder: Path) -> None:
    found = reread.read(request_for(folder))
    tokens = tiny_windows(1).tokens
    model = Skeleton(tiny_checkpoint()).fill()
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0]
    nll = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
    assert found["nll"] == [pytest.approx(nll.tolist(), rel=1e-4)]
    kept = [logits[0, [1, 2]].tolist(), logits[15, [3]].tolist()]
    assert found["logits"] == [[pytest.approx(row, rel=1e-4, abs=1e-5) for row in kept]]
    assert found["prompt"] == tokens[0].tolist()
    assert found["decoded"][0] == int(logits[-1].argmax())
    assert len(found["decoded"]) == 5


def test_without_a_record_it_goes_on_from_a_fixed_text(folder: Path, tmp_path: Path) -> None:
    found = reread.read(request_for(folder, windows=[]))
    assert found["text"].startswith("The bones of a bird are")
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    found = reread.read(request_for(bare, windows=[]))
    assert found["text"] is None
    assert found["prompt"] == list(range(16))


@pytest.mark.parametrize("fails", [False, True], ids=["no cache", "a cache that fails"])
def test_a_model_whose_cache_cannot_be_continued_decodes_from_the_whole_text(fails: bool) -> None:
    """As Mamba, whose output names its cache otherwise, and CPM-Ant, which wants the whole text."""

    class Model(torch.nn.Module):
        def forward(self, text: torch.Tensor, **options: Any) -> SimpleNamespace:
            if options.get("past_key_values") is not None:
                raise RuntimeError("the sizes do not match")
            logits = torch.zeros(*text.shape, 10)
            logits[:, -1, text.sum() % 10] = 1.0  # depends on every token
            return SimpleNamespace(logits=logits, past_key_values="cache" if fails else None)

    assert reread._decode(Model(), torch.tensor([[1, 2]]), 4) == [3, 6, 2, 4]


def test_an_error_that_is_not_the_cache_s_is_raised() -> None:
    class Model(torch.nn.Module):
        def forward(self, text: torch.Tensor, **options: Any) -> None:
            raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        reread._decode(Model(), torch.tensor([[1, 2]]), 4)


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(folder, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    torch.save(dict(tiny_checkpoint().tensors), pickled / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        reread.read(request_for(pickled))
