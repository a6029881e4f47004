"""The saved model, and what a fresh process measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .html import html_table


@dataclass(frozen=True)
class Saved:
    """The model that `save` wrote and checked.

    Attributes:
        path: the folder, or the GGUF file.
        weight_bytes: bytes on disk of its weight files.
        figures: ``{"dense": {...}, "light": {...}}``, what a fresh process with plain transformers
            measured on each saved folder: ``weight_bytes``, ``parameters``, ``nonzero``,
            ``prefill_tokens_per_second``, ``decode_tokens_per_second``, ``peak_bytes``, and on
            held-out text ``perplexity``, ``perplexity_error``, ``rise``, ``rise_error``,
            ``agreement``, ``mean_kl``, ``median_kl``, ``kl_99``, ``kl_999`` (nats per token) and
            ``rms_dp`` (change of the next token's probability); the same on text from elsewhere
            under names that begin with ``elsewhere_``.
        measured_on: text, window length, window count, compute dtype, machine, versions, as text.
    """

    path: Path
    weight_bytes: int
    figures: Mapping[str, Mapping[str, float]]
    measured_on: Mapping[str, str]

    @property
    def records(self) -> Path:
        """The folder with card, ``birdbone.json``, ``proof.json`` and ``report.html``."""
        is_folder = self.path.suffix != ".gguf" or self.path.is_dir()
        return self.path if is_folder else self.path.with_name(f"{self.path.name}.birdbone")

    def _repr_html_(self) -> str:
        """The figures as a table, for notebooks."""
        sides = list(self.figures)
        names = dict.fromkeys(name for side in sides for name in self.figures[side])
        rows = [
            (
                name,
                *(
                    f"{self.figures[s][name]:,.6g}" if name in self.figures[s] else ""
                    for s in sides
                ),
            )
            for name in names
        ]
        return html_table((str(self.path), *sides), rows)
