"""calibrate: three texts that never overlap, and plain words where the text or length is unfit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.errors import DataError, LinkError, SettingError
from birdbone.links import calibrate
from birdbone.models.reading.tokenizer import load_tokenizer

KEYS = ("calibration", "healing", "heldout", "elsewhere")

WORDS = ("bone", "wing", "the", "and", "light", "hollow", "strut", "of", "carried", "load")


def write_documents(folder: Path, *, num: int = 12, words: int = 300, seed: int = 0) -> str:
    """A folder of text files with nothing in common but their words."""
    folder.mkdir()
    chance = random.Random(seed)
    for number in range(num):
        text = " ".join(f"{chance.choice(WORDS)}{chance.randrange(1000)}" for _ in range(words))
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return str(folder)


def read_documents(folder: str) -> list[str]:
    """Every file's text."""
    return [path.read_text(encoding="utf-8") for path in Path(folder).iterdir()]


@pytest.fixture
def documents(tmp_path: Path) -> str:
    return write_documents(tmp_path / "documents")


def loaded(arch: str = "llama", **overrides: Any) -> dict[str, Any]:
    """A context as load leaves it."""
    checkpoint = tiny_checkpoint(arch, **overrides)
    return {"checkpoint": checkpoint, "dense": checkpoint}


def some(data: str, **settings: Any) -> Any:
    """calibrate with few, short windows."""
    counts = {"windows": 5, "healing_windows": 4, "heldout_windows": 3, "elsewhere_windows": 2}
    return calibrate(data=data, **{**counts, "length": 32, **settings})


def texts_of(ctx: dict[str, Any]) -> list[set[str]]:
    """The words of each part, which the numbers in them make all but unique to a document."""
    tokenizer = load_tokenizer(ctx["checkpoint"])
    return [
        {word for row in ctx[key].tokens for word in tokenizer.decode(row).split()[1:-1]}
        for key in KEYS[:3]
    ]


async def test_each_part_has_the_windows_asked_for(documents: str) -> None:
    after = await run(some(documents), loaded())
    shapes = [tuple(after[key].tokens.shape) for key in KEYS]
    assert shapes == [(5, 32), (4, 32), (3, 32), (2, 32)]
    assert after["history"][-1].metrics == {
        "calibration_tokens": 160,
        "healing_tokens": 128,
        "heldout_tokens": 96,
        "elsewhere_tokens": 64,
    }
    assert all(key in after[key].text for key in KEYS)


async def test_no_document_is_in_two_parts(documents: str) -> None:
    every = {"windows": 40, "healing_windows": 40, "heldout_windows": 20, "length": 64}
    after = await run(some(documents, **every), loaded())
    sources = [text.split() for text in read_documents(documents)]
    owners = [
        {number for number, source in enumerate(sources) if len(words & set(source)) > 40}
        for words in texts_of(after)
    ]
    assert all(owners)
    assert not owners[0] & owners[1]
    assert not owners[1] & owners[2]
    assert not owners[0] & owners[2]


async def test_the_seed_decides_the_windows(documents: str) -> None:
    first, again, other = [await run(some(documents, seed=s), loaded()) for s in (0, 0, 1)]
    for key in KEYS:
        assert first[key].digest == again[key].digest
        assert first[key].digest != other[key].digest


async def test_fewer_windows_than_asked_for_are_warned_of(documents: str) -> None:
    message = r"calibrate\(heldout_windows=9999\): the text gives only \d+ windows of 32 tokens"
    with pytest.warns(UserWarning, match=message):
        after = await run(some(documents, heldout_windows=9999), loaded())
    assert 0 < after["heldout"].num_windows < 9999


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
async def test_windows_longer_than_the_models_positions_are_refused_unread(arch: str) -> None:
    message = r"calibrate\(length=65\): the model has 64 positions; set length to 64 or less"
    with pytest.raises(LinkError, match=message) as caught:
        await run(some("/nowhere/at/all", length=65), loaded(arch))
    assert isinstance(caught.value.__cause__, SettingError)


async def test_windows_as_long_as_the_positions_are_allowed(documents: str) -> None:
    after = await run(some(documents, length=64), loaded())
    assert after["calibration"].length == 64


async def test_token_ids_beyond_the_vocabulary_are_refused(documents: str) -> None:
    checkpoint = tiny_checkpoint().evolve(config={"vocab_size": 50})
    message = r"token id \d+, but the model knows ids below 50; use the tokenizer"
    with pytest.raises(LinkError, match=message) as caught:
        await run(some(documents), {"checkpoint": checkpoint, "dense": checkpoint})
    assert isinstance(caught.value.__cause__, DataError)


async def test_heldout_text_from_elsewhere_judges_and_the_rest_heals(
    documents: str, tmp_path: Path
) -> None:
    other = write_documents(tmp_path / "other", seed=7)
    apart = await run(some(documents, heldout_data=other), loaded())
    assert "other" in apart["heldout"].text
    assert "documents" in apart["calibration"].text
    both = await run(some(documents), loaded())
    assert apart["calibration"].digest == both["calibration"].digest
    assert apart["heldout"].digest != both["heldout"].digest


async def test_heldout_text_that_was_trained_on_is_refused(documents: str, tmp_path: Path) -> None:
    other = write_documents(tmp_path / "other", seed=7)
    copied = (Path(documents) / "03.txt").read_text(encoding="utf-8")
    (Path(other) / "copied.txt").write_text(copied, encoding="utf-8")
    message = r"held-out text 'other' shares 1 documents with 'documents', the first"
    with pytest.raises(LinkError, match=message) as caught:
        await run(some(documents, heldout_data=other), loaded())
    assert isinstance(caught.value.__cause__, DataError)


async def test_the_user_names_text_from_elsewhere(documents: str, tmp_path: Path) -> None:
    other = write_documents(tmp_path / "other", seed=7)
    after = await run(some(documents, elsewhere=other), loaded())
    assert after["elsewhere"].text == "other, elsewhere"
    plain = await run(some(documents), loaded())
    assert [after[key].digest for key in KEYS[:3]] == [plain[key].digest for key in KEYS[:3]]


@pytest.mark.parametrize(
    ("used", "chosen"),
    [
        ({}, "stdlib"),
        ({"heldout_data": "stdlib"}, "pydoc"),
        ({"heldout_data": "stdlib", "data": "pydoc"}, "readmes"),
    ],
)
async def test_text_from_elsewhere_is_a_built_in_text_that_is_not_used(
    documents: str, used: dict[str, str], chosen: str
) -> None:
    after = await run(some(**{"data": documents, **used}), loaded())
    assert after["elsewhere"].text.startswith(chosen)
    assert after["elsewhere"].num_windows == 2


async def test_text_from_elsewhere_that_stands_in_another_part_is_refused(
    documents: str, tmp_path: Path
) -> None:
    other = write_documents(tmp_path / "other", seed=7)
    copied = (Path(documents) / "03.txt").read_text(encoding="utf-8")
    (Path(other) / "copied.txt").write_text(copied, encoding="utf-8")
    message = r"text from elsewhere 'other' shares 1 documents with 'documents', the first"
    with pytest.raises(LinkError, match=message):
        await run(some(documents, elsewhere=other), loaded())


async def test_text_too_short_for_one_window_is_refused(tmp_path: Path) -> None:
    short = write_documents(tmp_path / "short", num=3)
    (Path(short) / "01.txt").write_text("one bone", encoding="utf-8")
    with pytest.raises(LinkError, match=r"one window needs 60: give more text"):
        await run(some(short, length=60), loaded())


@pytest.mark.parametrize("setting", ["windows", "healing_windows", "heldout_windows"])
def test_no_windows_at_all_is_no_setting(setting: str) -> None:
    with pytest.raises(SettingError, match=rf"calibrate\({setting}=0\)"):
        calibrate(**{setting: 0})


async def test_tokens_are_the_models_own(documents: str) -> None:
    after = await run(Chain(some(documents)), loaded())
    tokenizer = load_tokenizer(after["checkpoint"])
    words = "".join(read_documents(documents))
    for row in after["calibration"].tokens:
        inside = tokenizer.decode(row[row != tokenizer.eos_token_id]).strip()
        assert inside[:20].strip() in words
    assert after["calibration"].tokens.dtype == torch.int64


async def test_a_config_that_nests_its_language_model_is_read_as_transformers_reads_it(
    documents: str,
) -> None:
    plain = tiny_checkpoint("gemma3")
    text = {key: value for key, value in plain.config.items() if key != "architectures"}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    nested = {"model_type": "gemma3", "text_config": text, "vision_config": vision}
    checkpoint = Checkpoint(nested, {}, plain.files)
    ctx = {"checkpoint": checkpoint, "dense": checkpoint}
    assert (await run(some(documents), ctx))["heldout"].num_windows == 3
    with pytest.raises(LinkError, match="the model has 64 positions"):
        await run(some(documents, length=65), ctx)
