"""Commands that only score read the windows that calibrate sets aside."""

from pathlib import Path

from tiny import tiny_checkpoint

from birdbone.engine import run
from birdbone.links import calibrate
from birdbone.links.calibrating.heldout import heldout_windows
from birdbone.models.reading.tokenizer import load_tokenizer


async def test_they_are_the_same_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" ".join(f"word{number}" for number in range(3000)), encoding="utf-8")
    checkpoint = tiny_checkpoint()
    tokenizer = load_tokenizer(checkpoint)
    ctx = {"checkpoint": checkpoint, "dense": checkpoint}
    asked = calibrate(data=str(path), windows=2, healing_windows=2, heldout_windows=3, length=32)
    after = await run(asked, ctx)
    found = heldout_windows(str(path), None, tokenizer, length=32, limit=3)
    assert (found.digest, found.text) == (after["heldout"].digest, "a.txt, heldout")
    whole = heldout_windows("pydoc", str(path), tokenizer, length=32, limit=10_000)
    assert whole.text == "a.txt"
    assert whole.num_windows > 500
