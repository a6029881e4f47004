"""calibrate: three texts that never overlap, and plain words where the text or length is unfit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.errors import DataError, LinkError, LittleTextWarning, SettingError
from birdbone.links import calibrate, load
from birdbone.models.reading.tokenizer import load_tokenizer

KEYS = ("calibration", "healing", "heldout", "elsewhere")

ANSWER = {"role": "assistant", "content": "A number, as every other."}

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


def some(data: str | tuple[str, ...], **settings: Any) -> Any:
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
        "tokens_per_input": 2.5,
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
    message = r"calibrate\(heldout_windows=9999\): the text has only \d+ windows of 32 tokens"
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


async def test_text_too_short_for_a_window_of_each_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text(" ".join(f"word{number}" for number in range(200)), encoding="utf-8")
    with pytest.raises(LinkError, match=r"'short\.txt' has \d{4} tokens; .* a window of 600"):
        await run(some(str(path), length=600), loaded(max_position_embeddings=600))


async def test_text_from_elsewhere_that_is_too_short_is_refused(
    documents: str, tmp_path: Path
) -> None:
    path = tmp_path / "short.txt"
    path.write_text(" ".join(f"word{number}" for number in range(150)), encoding="utf-8")
    loads = loaded(max_position_embeddings=2000)
    with pytest.raises(LinkError, match=r"'short\.txt, elsewhere' has \d{3,4} tokens"):
        await run(some(documents, elsewhere=str(path), length=2000), loads)


async def test_one_text_of_one_line_is_divided(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("".join(f"{number} und " for number in range(2000)), encoding="utf-8")
    after = await run(some(str(path)), loaded())
    assert [after[key].num_windows for key in KEYS] == [5, 4, 3, 2]


async def test_windows_of_several_sources_are_in_proportion_to_their_weights(
    documents: str, tmp_path: Path
) -> None:
    numbers = tmp_path / "numbers.txt"
    numbers.write_text(" ".join(str(number) for number in range(5000)), encoding="utf-8")
    after = await run(some((f"{numbers}:2", documents), windows=30), loaded())
    tokenizer = load_tokenizer(after["checkpoint"])
    texts = [tokenizer.decode(row) for row in after["calibration"].tokens]
    digits = [not any(letter.isalpha() for letter in text) for text in texts]
    assert digits.count(True) == 20
    assert 3 <= digits[:6].count(True) <= 5
    assert after["calibration"].text == "numbers.txt (2) + documents (1), calibration"


async def test_conversations_are_written_by_the_models_own_template(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"What is {n}?"}, *([] if n == 70 else [ANSWER])]}
        for n in range(200)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    checkpoint = tiny_checkpoint()
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
        "{% if messages | length < 2 %}{{ raise_exception('no answer') }}{% endif %}"
    )
    files = {**checkpoint.files, "chat_template.jinja": template.encode()}
    checkpoint = Checkpoint(checkpoint.config, checkpoint.refs, files)
    ctx = {"checkpoint": checkpoint, "dense": checkpoint}
    with pytest.raises(LinkError, match=r"chat\.jsonl', line 71: .* cannot render .*no answer"):
        await run(some(str(path)), ctx)
    after = await run(some(f"{path}?rows=70"), ctx)
    text = load_tokenizer(checkpoint).decode(after["healing"].tokens.flatten())
    assert "[assistant] A number" in text
    assert "</s>" in text
    with pytest.raises(LinkError, match=r"line 1 is a conversation.*has no chat template"):
        await run(some(str(path)), loaded())


async def test_little_text_for_the_widths_is_warned_of(documents: str) -> None:
    message = r"160 calibration tokens are 2\.5 tokens per input width .* set windows to 40 or more"
    with pytest.warns(LittleTextWarning, match=message):
        await run(some(documents), loaded())


async def test_the_default_number_of_windows_follows_the_widths(documents: str) -> None:
    after = await run(some(documents, windows=None, length=16), loaded())
    assert after["calibration"].num_windows == 80  # 20 tokens for each of 64 inputs
    assert after["history"][-1].metrics["tokens_per_input"] == 20.0


async def test_a_source_spelled_wrong_is_refused_before_any_link(documents: str) -> None:
    with pytest.raises(LinkError, match="no option 'colum'; did you mean 'column'") as caught:
        await run(Chain(load(model="nowhere"), some(f"{documents}?colum=x")))
    assert isinstance(caught.value.__cause__, SettingError)


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
