"""The metadata at the top of a model card, as the Hugging Face hub reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..checkpoints import Checkpoint
from ..contexts.steps import Step
from ..contexts.task_scores import Recovery
from ..contexts.verdict import PREFIXES
from ..models.reading.source_card import base_models, source_metadata

Figures = Mapping[str, Mapping[str, float]]

_TAKEN = ("license", "license_name", "license_link", "language")  # from the source's card
# The relation of a model to its base that the hub knows and shows.
_RELATIONS = (("quantize", "quantized"), ("prune", "finetune"), ("heal", "finetune"))


def card_metadata(
    *,
    name: str,
    checkpoint: Checkpoint,
    history: Sequence[Step],
    figures: Figures,
    measured_on: Mapping[str, str],
    tasks: Sequence[Recovery] = (),
) -> str:
    """The block between two lines of dashes: library, licence, base model, figures.

    Licence, language and tags are those of the source's card or licence files. The base model is
    named only if it is a repository of the hub. The figures are the perplexities on both texts, and
    the scores on tasks of lm-eval.

    Args:
        name: of the saved model.
        figures: as `Saved.figures` has them.
        tasks: scores on tasks; empty if it was evaluated on none.
    """
    of_source = source_metadata(checkpoint)
    found: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    found |= {key: of_source[key] for key in _TAKEN if key in of_source}
    bases = base_models(checkpoint)
    if bases:
        found["base_model"] = bases[0] if len(bases) == 1 else bases
        relation = _relation(history)
        if relation is not None:
            found["base_model_relation"] = relation
    found["tags"] = _tags(of_source.get("tags", []))
    results = [*_results(figures, measured_on), *_task_results(tasks)]
    if results:
        found["model-index"] = [{"name": name, "results": results}]
    written = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    return f"---\n{written}---"


def _tags(of_source: str | list[str]) -> list[str]:
    """Our tag, then the source's without its format."""
    named = [of_source] if isinstance(of_source, str) else of_source
    return list(dict.fromkeys(["bird-bone", *(each for each in named if each != "gguf")]))


def _relation(history: Sequence[Step]) -> str | None:
    links = {step.link for step in history}
    return next((relation for link, relation in _RELATIONS if link in links), None)


def _results(figures: Figures, measured_on: Mapping[str, str]) -> list[dict[str, Any]]:
    """One evaluation result for each text the saved model was scored on."""
    light = figures.get("light", {})
    names = {"heldout": measured_on.get("text"), "elsewhere": measured_on.get("elsewhere")}
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": names[text] or text, "type": text},
            "metrics": [
                {
                    "type": "perplexity",
                    "name": f"perplexity, {measured_on.get(f'{prefix}windows', 'unknown windows')}",
                    "value": round(light[f"{prefix}perplexity"], 4),
                }
            ],
        }
        for text, prefix in PREFIXES.items()
        if f"{prefix}perplexity" in light
    ]


def _task_results(tasks: Sequence[Recovery]) -> list[dict[str, Any]]:
    """One evaluation result for each task, with all of its metrics."""
    names = dict.fromkeys(each.task for each in tasks)
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": name, "type": name},
            "metrics": [
                {
                    "type": each.metric,
                    "name": f"{each.metric}, {each.num_samples} samples, lm-eval",
                    "value": round(each.light, 4),
                }
                for each in tasks
                if each.task == name
            ],
        }
        for name in names
    ]
