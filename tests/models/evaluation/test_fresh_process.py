"""A script in a process of its own: what reaches it, what comes back, and every way it may end."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import written

from birdbone.errors import ProofError
from birdbone.models.evaluation.fresh_process import Probe, measure_folders, run_alone

Told = list[tuple[str, int, int | None]]
WAITING = """
import os, signal
def answer(request):
    print("@ 1 2", os.getpid(), flush=True)
    signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "light").mkdir()
    return tmp_path / "light"


async def answered(folder: Path, body: str, told: Told | None = None, **request: Any) -> Any:
    """The result of a script whose ``answer`` has this body."""
    script = folder.parent / "script.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    script.write_text(f"import json, os, signal, sys\ndef answer(request):\n{lines}\n")
    heard = [] if told is None else told
    return await run_alone(
        script, {"folder": str(folder), **request}, lambda *words: heard.append(words)
    )


async def test_the_request_reaches_the_script_and_its_result_comes_back(folder: Path) -> None:
    found = await answered(folder, "return {'twice': request['number'] * 2}", number=21)
    assert found == {"twice": 42}


async def test_it_runs_isolated_and_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    body = (
        "names = ('HF_HUB_OFFLINE', 'TOKENIZERS_PARALLELISM')\n"
        "return {'flags': [os.environ[name] for name in names], 'path': sys.path, "
        "'cwd': os.getcwd(), 'loaded': 'birdbone' in sys.modules, 'alone': sys.flags.isolated}"
    )
    found = await answered(folder, body)
    assert found["flags"] == ["1", "false"]
    assert (found["loaded"], found["alone"]) == (False, 1)
    assert str(folder) not in found["path"]
    assert found["cwd"] not in (os.getcwd(), str(folder))


async def test_progress_lines_are_forwarded(folder: Path) -> None:
    told: Told = []
    await answered(folder, "print('@ 3 12 windows of text', flush=True)\nreturn {}", told)
    assert told == [("windows of text", 3, 12)]


async def test_other_output_is_dropped_whatever_it_is(folder: Path) -> None:
    """A model's own code may print lines that look alike, and lines longer than any buffer."""
    body = (
        "print('@ first of all', '@ 1 many words', '@ -1 2 less', '@', 'loading', sep='\\n')\n"
        "sys.stdout.flush()\n"
        "sys.stdout.buffer.write(b'\\xff\\n' + b'x' * 200_000 + b'\\n')\n"
        "print('@ 1 2 after it', flush=True)\n"
        "return {'ended': True}"
    )
    told: Told = []
    assert await answered(folder, body, told) == {"ended": True}
    assert told == [("after it", 1, 2)]


async def test_an_error_is_told_without_the_path_of_the_folder(folder: Path) -> None:
    with pytest.raises(ProofError) as caught:
        await answered(folder, "raise ValueError(request['folder'] + ' has no weights')")
    assert str(caught.value) == (
        "plain transformers cannot open and run the saved model: "
        "ValueError: the folder has no weights"
    )


async def test_tensors_of_other_shapes_are_told_in_words(folder: Path) -> None:
    with pytest.raises(ProofError, match=r": its files hold tensors of other shapes than"):
        await answered(folder, "raise RuntimeError('see above; set ignore_mismatched_sizes=True')")


async def test_memory_that_ran_out_names_the_limit(folder: Path) -> None:
    with pytest.raises(ProofError, match=r": it needs more than 4\.0 GB of memory, the limit "):
        await answered(folder, "raise MemoryError('cannot')")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(3)", r"the process ended with exit status 3 and no result$"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            r"exit status -9 and no result; it was killed, .*: it may take 4\.0 GB of memory",
        ),
    ],
)
async def test_an_end_without_a_result_is_an_error(folder: Path, body: str, words: str) -> None:
    with pytest.raises(ProofError, match=words):
        await answered(folder, body)


async def test_a_killed_process_without_a_limit_names_none(folder: Path) -> None:
    with pytest.raises(ProofError, match=r"possibly because memory ran out$"):
        await answered(folder, "os.kill(os.getpid(), signal.SIGKILL)", device="cuda")


async def test_cancelling_kills_the_process(folder: Path) -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    script = folder.parent / "script.py"
    script.write_text(WAITING)
    task = asyncio.ensure_future(
        run_alone(script, {"folder": str(folder)}, lambda label, *_: started.set_result(int(label)))
    )
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_observer_that_raises_kills_it_too(folder: Path) -> None:
    pids: list[int] = []

    def refuse(label: str, done: int, total: int | None) -> None:
        pids.append(int(label))
        raise KeyError(label)

    script = folder.parent / "script.py"
    script.write_text(WAITING)
    with pytest.raises(KeyError):
        await run_alone(script, {"folder": str(folder)}, refuse)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


async def test_an_impossible_depth_starts_no_process(tmp_path: Path) -> None:
    folder = written(tiny_checkpoint(num_hidden_layers=1), tmp_path / "light")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    with pytest.raises(ProofError, match=r"^llama\.cpp cannot open and run .*1000000000"):
        await run_alone(
            tmp_path / "none.py", {"folder": str(folder)}, lambda *_: None, opener="llama.cpp"
        )


async def test_both_models_are_measured_and_the_light_ones_process_compares(tmp_path: Path) -> None:
    dense = written(tiny_checkpoint(num_hidden_layers=1), tmp_path / "dense")
    light = written(tiny_checkpoint(num_hidden_layers=1, seed=1), tmp_path / "light")
    sizes = {"prefill_tokens": 8, "decode_tokens": 2, "repeats": 1}
    probe = Probe(tiny_windows(2, 8).tokens, torch.float32, **sizes)
    told: Told = []
    found = await measure_folders(light, dense, probe, lambda *words: told.append(words))
    labels = [label for label, _, _ in told]
    assert labels[0] == "dense model opened in a fresh process"
    assert "saved folder opened in a fresh process" in labels[1:]
    assert found.figures.keys() == {"light", "dense"}
    light_figures, dense_figures = found.figures["light"], found.figures["dense"]
    assert light_figures["perplexity"] != dense_figures["perplexity"]
    assert dense_figures["peak_bytes"] > 0
    assert found.decoded.keys() == {"light", "dense"}
