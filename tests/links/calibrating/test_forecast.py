"""What calibrate says before a run is what it then leaves, and what it would refuse is refused."""

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.forecast import Forecast
from birdbone.engine import run
from birdbone.errors import DataError
from birdbone.links import calibrate

KEYS = ("calibration", "healing", "heldout", "elsewhere")


@pytest.fixture
def words(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"word{number}" for number in range(3000)), encoding="utf-8")
    return str(path)


def told(checkpoint: Checkpoint | None = None, **settings: Any) -> Forecast:
    asked = calibrate(**{"length": 32, **settings})
    found = checkpoint or tiny_checkpoint()
    ctx = {"checkpoint": found, "dense": found}
    return asked.factory.hooks.forecast(ctx, asked.settings)


async def test_as_many_windows_as_the_run_leaves(words: str) -> None:
    settings = {"data": words, "windows": 9999, "healing_windows": 3, "length": 32}
    forecast = told(**settings)
    ctx = {"checkpoint": tiny_checkpoint(), "dense": tiny_checkpoint()}
    with pytest.warns(UserWarning, match=r"calibrate\(windows=9999\): the text has only"):
        after = await run(calibrate(**settings), ctx)
    for key in KEYS:
        assert forecast.adds[key].num_windows == after[key].num_windows
        assert forecast.adds[key].text == after[key].text
    assert forecast.notes == ()


def test_every_source_is_reported_with_its_use(words: str) -> None:
    forecast = told(data=(f"{words}:2", "pydoc?rows=9"), heldout_data="readmes")
    uses = [(each.name.split()[0], each.use, each.weight) for each in forecast.texts]
    assert uses == [
        ("words.txt", "data", 2.0),
        ("pydoc", "data", 1.0),
        ("readmes", "held-out", 1.0),
        ("stdlib", "elsewhere", 1.0),
    ]
    counted = forecast.texts[0]
    assert (counted.documents, counted.duplicates, counted.is_estimate) == (18, 0, False)
    assert forecast.texts[3].duplicates is None


def test_little_text_for_the_widths_is_noted(words: str) -> None:
    (note,) = told(data=words, windows=5).notes
    assert note.startswith("160 calibration tokens are 2.5 tokens per input width")


def test_a_source_that_is_missing_or_too_short_is_refused(words: str) -> None:
    with pytest.raises(DataError, match=r"'gone\.txt' is neither a file nor a folder"):
        told(data="gone.txt")
    with pytest.raises(DataError, match=r"'words\.txt' has \d+ tokens; .* of 20000 tokens each"):
        told(data=words, length=20_000)
    with pytest.raises(DataError, match=r"elsewhere 'words\.txt' shares"):
        told(data=words, elsewhere=words)


def test_without_a_tokenizer_at_hand_tokens_are_estimated(words: str) -> None:
    checkpoint = tiny_checkpoint()
    bare = Checkpoint(checkpoint.config, checkpoint.refs, {})
    forecast = told(bare, data=words, length=20_000, windows=3)
    assert forecast.texts[0].is_estimate
    assert forecast.adds["calibration"].num_windows == 3
