"""What was written, and what a fresh process measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Saved:
    """The folder `save` left, proven.

    Attributes:
        path: the folder.
        weight_bytes: bytes on disk of its weight files.
        figures: ``{"dense": {...}, "light": {...}}``, what a fresh process with plain transformers
            measured on each saved folder: ``weight_bytes``, ``parameters``, ``nonzero``,
            ``perplexity``, ``perplexity_error``, ``rise``, ``rise_error``, ``mean_kl`` and
            ``agreement`` on held-out text, the same on text from elsewhere under names that begin
            with ``elsewhere_``, ``prefill_tokens_per_second``, ``decode_tokens_per_second``,
            ``peak_bytes``.
        measured_on: text, window length, window count, compute dtype, machine, versions, in words.
    """

    path: Path
    weight_bytes: int
    figures: Mapping[str, Mapping[str, float]]
    measured_on: Mapping[str, str]
