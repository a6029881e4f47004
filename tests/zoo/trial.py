"""One architecture, from a random model to a proven int4 folder, or to the refusal of it.

The chain is that of a user: load, quantize, save. Saving is done by the parts of `save` without its
two processes per folder: the record is made from the model in memory, the folder is written, and
the same script that `prove` runs opens it, many folders in one fresh process (`standalone`). A few
architectures go through the real `save` and `prove` in `test_architectures`.

    PYTHONPATH=tests python -m zoo.trial llama gpt2
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny import random_model, tiny_tokenizer, tiny_windows
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from zoo.configs import ALL, VARIANTS, zoo_config

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.engine import run
from birdbone.errors import BirdboneError, LinkError, SettingError
from birdbone.links import load, quantize
from birdbone.links.saving.settings import SaveSettings
from birdbone.links.saving.trial import save_trial
from birdbone.models.blocks.empty_model import find_blocks, shared_model
from birdbone.models.evaluation import run_folder, standalone
from birdbone.models.evaluation.proof import check_score
from birdbone.models.evaluation.record import Record, logits_off, make_record
from birdbone.models.writing.folder import write_model

_DECODE = 4
_BATCH = 40  # folders on the disk at once
_TOLERANCE = 1e-4
_MAX_SENTENCE = 600


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture.

    Attributes:
        model_type, architecture: what transformers calls it; the class, empty if it is unknown.
        verdict: ``handled``, ``dense only`` (no weight fits a packed format), ``refused`` (by
            `load`, or by the trial of `save` before a run), or ``failed``, which the test does not
            allow: an error of another kind, or a folder whose proof does not hold.
        sentence: the refusal, or what failed.
        remarks: what a user should know of a handled one.
    """

    model_type: str
    architecture: str
    verdict: str
    sentence: str = ""
    remarks: str = ""


@dataclass
class _Trial:
    """A written folder that is still to be opened in a fresh process."""

    outcome: Outcome
    folder: Path
    record: Record
    request: Path
    result: Path


def try_all(
    model_types: Iterable[str], *, batch: int = _BATCH, loud: bool = False
) -> list[Outcome]:
    """The outcome of every architecture, in order; ``batch`` folders lie on the disk at once."""
    waiting = list(model_types)
    found: list[Outcome] = []
    while waiting:
        these, waiting = waiting[:batch], waiting[batch:]
        with tempfile.TemporaryDirectory() as aside:
            found += _proven(
                [_tried(each, Path(aside) / each.replace(", ", "_"), loud=loud) for each in these]
            )
    return found


def _tried(model_type: str, folder: Path, *, loud: bool) -> Outcome | _Trial:
    folder.mkdir()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return asyncio.run(_through_the_chain(model_type, folder))
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the report
        if loud:
            traceback.print_exc()
        return Outcome(model_type, "", "failed", f"{type(error).__name__}: {_line(error)}")


async def _through_the_chain(model_type: str, folder: Path) -> Outcome | _Trial:
    source, light = folder / "source", folder / "light"
    model = _written_source(model_type, source)
    name = "" if model is None else type(model).__name__
    try:
        dense = (await run(load(model=str(source))))["checkpoint"]
    except BirdboneError as error:
        return _refused(model_type, name, error)
    if model is None:
        return Outcome(model_type, name, "failed", "loads, although transformers cannot build it")
    _check_nothing_lost(dense, source)
    _check_same_logits(dense, source)
    made, outcome = await _quantised(dense, model_type, name)
    try:
        save_trial({"checkpoint": made}, SaveSettings(path=str(light)))
    except SettingError as error:
        return _refused(model_type, name, error)
    light.mkdir()
    write_model(made, light, max_shard_bytes=1 << 30)
    record = make_record(
        made, tiny_windows(2), tolerance=_TOLERANCE, announce=lambda label, done, total: None
    )
    return _Trial(outcome, light, record, *_request(folder, light, record))


async def _quantised(dense: Checkpoint, model_type: str, name: str) -> tuple[Checkpoint, Outcome]:
    """The model in 4 bits, or as it is where the check of `quantize` refuses it."""
    asked = quantize(method="rtn", bits=4, group_size="auto")
    try:
        made = (await run(asked, {"checkpoint": dense, "dense": dense}))["checkpoint"]
    except LinkError as error:
        if not isinstance(error.__cause__, SettingError):
            raise
        return dense, Outcome(model_type, name, "dense only", _sentence(error))
    return made, Outcome(model_type, name, "handled", remarks=_remarks(made))


def _written_source(model_type: str, folder: Path) -> PreTrainedModel | None:
    """The random model, saved; None where transformers itself cannot build one of its config.

    A folder is written even then, so that the refusal of `load` is seen.
    """
    folder.mkdir()
    config: PreTrainedConfig | None = None
    try:
        config = zoo_config(model_type)
        model = random_model(config)
    except Exception:  # noqa: BLE001 - transformers raises anything here
        named = VARIANTS.get(model_type, (model_type,))[0]
        described = {"model_type": named, **(config.to_dict() if config else {})}
        (folder / "config.json").write_text(json.dumps(described, default=str))
        weights = {f"weight.{place}": torch.zeros(4096) for place in range(64)}
        save_file(weights, folder / "model.safetensors")
        return None
    try:
        with torch.no_grad():
            model(tiny_windows(2).tokens, use_cache=False)
    except Exception as error:
        raise AssertionError(f"the tiny config does not run: {_line(error)}") from error
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


def _refused(model_type: str, name: str, error: BirdboneError) -> Outcome:
    said = str(error)
    verdict = "refused" if "\n" not in said and len(said) < _MAX_SENTENCE else "failed"
    return Outcome(model_type, name, verdict, _sentence(error))


def _check_nothing_lost(dense: Checkpoint, source: Path) -> None:
    """Every tensor of the folder is a parameter's, carried unused, or a tied one's second copy."""
    stored = {n: t for path in source.glob("*.safetensors") for n, t in load_file(path).items()}
    held = sum(tensor.numel() for tensor in stored.values())
    found = dense.num_parameters + sum(ref.num_values for ref in dense.unused.values())
    if found < held:
        raise AssertionError(f"the folder holds {held} values, of which {found} were read")


def _check_same_logits(dense: Checkpoint, source: Path) -> None:
    """The model that was read computes what plain transformers makes of the folder."""
    tokens = tiny_windows(2).tokens
    plain = AutoModelForCausalLM.from_pretrained(source, experts_implementation="eager").eval()
    with torch.no_grad():
        expected = plain(tokens, use_cache=False).logits
        found = dense.to_model(torch.float32)(tokens, use_cache=False).logits
    if _off(found, expected) > 1e-5:
        raise AssertionError(f"the read model's logits are {_off(found, expected):.2g} off")


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _remarks(light: Checkpoint) -> str:
    """How many of the weight matrices of blocks are in 4 bits."""
    inside = f"{find_blocks(shared_model(light))[0]}."
    matrices = [
        ref for name, ref in light.refs.items() if name.startswith(inside) and len(ref.shape) > 1
    ]
    coded = sum(ref.num_values for ref in matrices if isinstance(ref, Quantized))
    total = sum(ref.num_values for ref in matrices)
    unused = f"; {len(light.unused)} unused tensors carried" if light.unused else ""
    return f"{coded / max(total, 1):.0%} of the weights of blocks in 4 bits{unused}"


def _request(folder: Path, light: Path, record: Record) -> tuple[Path, Path]:
    request, result = folder / "request.json", folder / "result.json"
    content = {
        "folder": str(light),
        "dtype": record.dtype,
        "device": "cpu",
        "decode_tokens": _DECODE,
        "trust_remote_code": False,
        "windows": [
            each.model_dump(include={"tokens", "places", "ids"}) for each in record.windows
        ],
        "result": str(result),
    }
    request.write_text(json.dumps(content))
    return request, result


def _proven(tried: Sequence[Outcome | _Trial]) -> list[Outcome]:
    """The outcomes, after one fresh process has opened every written folder."""
    requests = [str(each.request) for each in tried if isinstance(each, _Trial)]
    if requests:
        script = [sys.executable, "-I", standalone.__file__, run_folder.__file__, *requests]
        subprocess.run(script, check=False, capture_output=True, cwd=tempfile.gettempdir())
    return [each if isinstance(each, Outcome) else _judged(each) for each in tried]


def _judged(trial: _Trial) -> Outcome:
    found: dict[str, Any] = {"error": "the fresh process ended without a result"}
    with suppress(OSError, ValueError):
        found = json.loads(trial.result.read_text())
    if "error" in found:
        return _unproven(trial.outcome, found["error"])
    off, score = logits_off(trial.record, found["logits"]), check_score(trial.record, found["nll"])
    if off > trial.record.tolerance or not score.holds:
        return _unproven(trial.outcome, f"logits {off:.2g} off, {score.words}")
    return trial.outcome


def _unproven(outcome: Outcome, words: str) -> Outcome:
    return replace(outcome, verdict="failed", sentence=" ".join(words.split()))


def _sentence(error: BirdboneError) -> str:
    """What a link says, without its name in front and without the path of the trial."""
    told = error.__cause__ if isinstance(error, LinkError) and error.__cause__ else error
    return re.sub(r"^save\(path='[^']*'\): ", "", _line(told))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_SENTENCE]


def _main(model_types: Sequence[str]) -> None:
    """Print the outcome of some architectures, or of all, as they come."""
    waiting = list(model_types or ALL)
    while waiting:
        these, waiting = waiting[:_BATCH], waiting[_BATCH:]
        for outcome in try_all(these, loud=bool(model_types)):
            sys.stdout.write("\t".join(astuple(outcome)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1:])
