"""Measure a written model in fresh processes, compare it with the model in memory, and prove it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...checkpoints import Checkpoint
from ...contexts.flow import Savable
from ...engine import announce, in_thread
from ...errors import ProofError
from ...formats.gguf_proof import prove_gguf
from ...models.blocks.config import has_code
from ...models.blocks.device import default_device, judged_dtype
from ...models.evaluation.fresh_process import Measurement, Probe, measure_folders
from ...models.evaluation.proof import prove
from ...models.evaluation.record import Record, make_record, probe_windows
from ...texts import Windows
from .acceptance import check_accepted, logits_tolerance
from .examples import Examples
from .gguf import file_name, judge_file, score_tolerance
from .settings import SaveSettings

_NONE = Examples()


@dataclass(frozen=True)
class Judged:
    """A written model that passed the checks.

    Attributes:
        found: measurements of the fresh processes.
        stored: the values the files store. They differ from the model in memory if writing rounds.
        tolerance: maximum relative difference between the files and ``stored`` in a later proof.
    """

    found: Measurement
    stored: Checkpoint
    tolerance: float


def probe_for(
    checkpoint: Checkpoint, texts: Mapping[str, Windows], examples: Examples = _NONE
) -> Probe:
    """The measurement of a saved model on the given texts, on the default device.

    Args:
        examples: prompts to continue too.
    """
    device = default_device()
    tokens = {name: windows.tokens for name, windows in texts.items()}
    return Probe(
        tokens=tokens.get("heldout"),
        elsewhere=tokens.get("elsewhere"),
        dtype=judged_dtype(checkpoint, device),
        device=str(device),
        trust_remote_code=has_code(checkpoint),
        prompts=[prompt.tokens for prompt in examples.prompts],
    )


async def judge_saved(
    ctx: Savable,
    form: str,
    folder: Path,
    target: Path,
    beside: Path | None,
    probe: Probe,
    settings: SaveSettings,
) -> Judged:
    """Measure the written model in fresh processes and compare it with the model in memory.

    Args:
        folder: the folder it was written to.
        target: the path it will have, which names a GGUF file.
        beside: a folder with the original model, measured too if given.

    Raises:
        ProofError: it does not open, or its scores differ from those in memory.
        GateError: see `check_accepted`.
    """
    checkpoint, asked = ctx["checkpoint"], settings.tolerance
    if form == "gguf":
        from ...formats.gguf_rounding import stored_values

        bound = score_tolerance(checkpoint, settings.kind, asked)
        stored = await in_thread(stored_values, checkpoint, kind=settings.kind)
        file = folder / file_name(target)
        found = await judge_file(ctx, stored, file, beside, probe, tolerance=bound)
        return Judged(found, stored, bound)
    found = await measure_folders(folder, beside, probe, announce)
    await check_accepted(ctx, found, dtype=probe.dtype, tolerance=asked)
    return Judged(found, checkpoint, logits_tolerance(checkpoint, probe.dtype, asked))


async def record_of(judged: Judged, heldout: Windows | None, proof_tokens: int) -> Record:
    """Outputs of the model on a few tokens, which every later proof of the files must match."""
    return await in_thread(
        make_record,
        judged.stored,
        probe_windows(judged.stored, heldout, proof_tokens),
        tolerance=judged.tolerance,
        announce=announce,
    )


async def require_proven(folder: Path, form: str, probe: Probe) -> None:
    """Run the same proof on the folder as ``birdbone prove``.

    Raises:
        ProofError: a check of the proof failed.
    """
    if form == "gguf":
        proof = await prove_gguf(folder, announce=announce)
    else:
        proof = await prove(folder, trust_remote_code=probe.trust_remote_code, announce=announce)
    if not proof.proven:
        faults = [f"{each.name}: {each.words}" for each in proof.checks if not each.holds]
        raise ProofError(f"the saved folder is not proven: {'; '.join(faults)}")
