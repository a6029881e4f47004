"""The rows of the comparison: what is asked for, and who does it with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GROUP_SIZE = 64
AUTOROUND_ITERATIONS = 20
HEALING_WINDOWS = 32
LLM_COMPRESSOR, AUTOROUND, TORCH_PRUNING = "llm-compressor", "AutoRound", "Torch-Pruning"

# The script of each peer, run by the interpreter of its own environment.
PEERS = {
    LLM_COMPRESSOR: "peer_llmcompressor.py",
    AUTOROUND: "peer_autoround.py",
    TORCH_PRUNING: "peer_torchpruning.py",
}


@dataclass(frozen=True)
class Method:
    """One row of a task.

    Attributes:
        label: its name in the table and in the results.
        links: links of bird-bone with their settings; empty for a peer.
        peer: the peer that runs it; None for bird-bone.
        extra: what the peer's task has besides that of the other methods.
        healing_windows: number of windows to train on, of the calibration text, other than those
            to calibrate on.
        uses_text: whether the result depends on the calibration text, and so on the seed.
    """

    label: str
    links: Sequence[tuple[str, Mapping[str, Any]]] = ()
    peer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    healing_windows: int = 0
    uses_text: bool = True


@dataclass(frozen=True)
class Task:
    """What every method of a block of rows is asked for.

    Attributes:
        settings: bits and group size, pattern, sparsity, or ``fraction``, the fraction of the
            parameters of the blocks to remove as neurons.
    """

    label: str
    settings: Mapping[str, Any]
    methods: Sequence[Method]


def rounding(bits: int) -> Task:
    asked = {"bits": bits, "group_size": GROUP_SIZE}
    iterations = {"iterations": AUTOROUND_ITERATIONS}
    methods = (
        Method("round to nearest", [("quantize", {**asked, "method": "rtn"})], uses_text=False),
        Method("llm-compressor, GPTQ", peer=LLM_COMPRESSOR),
        Method(f"AutoRound, {AUTOROUND_ITERATIONS} iterations", peer=AUTOROUND, extra=iterations),
        Method("bird-bone, default", [("quantize", asked)]),
    )
    return Task(f"int{bits}, groups of {GROUP_SIZE}", asked, methods)


def masks(label: str, asked: Mapping[str, Any], sparsity: float) -> Task:
    magnitude = {**asked, "method": "magnitude"}
    methods = (
        Method("magnitude", [("prune", magnitude)], uses_text=False),
        Method("llm-compressor, SparseGPT", peer=LLM_COMPRESSOR),
        Method("bird-bone, default", [("prune", asked)]),
    )
    return Task(label, {**asked, "sparsity": sparsity}, methods)


def structured(percent: int) -> Task:
    """The sparsity of neurons that removes this much depends on the model; `Bench` sets it."""
    neurons = ("prune", {"pattern": "neurons", "multiple": 1})
    methods = (
        Method("Torch-Pruning, Taylor", peer=TORCH_PRUNING),
        Method("bird-bone, not healed", [neurons]),
        Method(
            f"bird-bone, healed on {HEALING_WINDOWS} more windows",
            [neurons, ("heal", {})],
            healing_windows=HEALING_WINDOWS,
        ),
    )
    return Task(f"structured {percent} %", {"fraction": percent / 100}, methods)


TASKS = {
    task.label: task
    for task in (
        rounding(4),
        rounding(3),
        masks("2:4", {"pattern": "2:4"}, 0.5),
        masks("50 %", {"sparsity": 0.5}, 0.5),
        structured(20),
        structured(30),
    )
}
