"""Write the stored results of `table.py` as Markdown tables between two markers of a page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from table_rows import TASKS, Method, Task

BEGIN = "<!-- begin: written by benchmarks/table.py -->"
END = "<!-- end: written by benchmarks/table.py -->"
NOT_MEASURED = "–"


def write_page(page: Path, conditions: Mapping[str, Any]) -> None:
    """Replace what is between the markers.

    Raises:
        ValueError: the page does not have both markers, once each, in order.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"{page}: the markers '{BEGIN}' and '{END}' must be there once, in order")
    page.write_text(f"{before}{BEGIN}\n\n{tables(conditions)}\n\n{END}{after}")


def tables(conditions: Mapping[str, Any]) -> str:
    return "\n\n".join(table(each) for each in conditions.values())


def table(condition: Mapping[str, Any]) -> str:
    """One condition: a sentence, the table, and why cells are empty."""
    judges = list(condition["setting"]["judges"])
    lines = [
        f"| | | {' | '.join(judges)} | seeds | CPU minutes |",
        f"|---|---|{'---:|' * (len(judges) + 2)}",
        _line(["original", ""], judges, [condition["runs"]["dense"]], ["", ""]),
    ]
    reasons: dict[str, str] = {}
    for task in TASKS.values():
        label = task.label
        for method in task.methods:
            found = _stored(condition["runs"], task, method)
            reason = _reason(condition["failed"], task, method)
            if not found and reason:
                reasons.setdefault(method.label, reason)
            seeds = str(len(found)) if method.uses_text or not found else "no text used"
            lines.append(_line([label, method.label], judges, found, [seeds, _minutes(found)]))
            label = ""
    notes = [f"{NOT_MEASURED} in rows of {name}: {reason}." for name, reason in reasons.items()]
    discarded = [key for key, run in condition["runs"].items() if _discarded(run)]
    if discarded:
        notes.append(
            f"Healing did not improve held-out text and was discarded in {'; '.join(discarded)}."
        )
    return "\n\n".join([_sentence(condition), "\n".join(lines), *notes])


def _stored(runs: Mapping[str, Any], task: Task, method: Method) -> list[Mapping[str, Any]]:
    return [run for key, run in runs.items() if key.startswith(f"{task.label} / {method.label} / ")]


def _reason(failed: Mapping[str, str], task: Task, method: Method) -> str | None:
    start = f"{task.label} / {method.label} / "
    return next((why for key, why in failed.items() if key.startswith(start)), None)


def _discarded(run: Mapping[str, Any]) -> bool:
    return not all(healing["kept"] for healing in run.get("healing", ()))


def _line(
    names: Sequence[str],
    judges: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    figures: Sequence[str],
) -> str:
    perplexities = [spread([run["perplexity"][name] for run in found]) for name in judges]
    return f"| {' | '.join([*names, *perplexities, *figures])} |"


def _minutes(found: Sequence[Mapping[str, Any]]) -> str:
    """Of the fastest run: seeds may have been run on machines of different speed."""
    if not found:
        return NOT_MEASURED
    return f"{min(run['cpu_seconds'] for run in found) / 60:.1f}"


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation where there are several."""
    if not values:
        return NOT_MEASURED
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def _sentence(condition: Mapping[str, Any]) -> str:
    """What the figures were measured on."""
    setting, runs = condition["setting"], condition["runs"]
    drifted = (
        f"all weights trained {setting['drift']} steps first, off any grid"
        if setting["drift"]
        else "weights as published"
    )
    judges = ", ".join(f"{count} of {name}" for name, (count, _) in setting["judges"].items())
    versions: dict[str, str] = {}
    for run in runs.values():
        for name, version in run.get("versions", {}).items():
            if name not in ("torch", "transformers", "compressed-tensors"):
                versions[name] = version
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"**{setting['model']}, {drifted}.** Perplexity (± standard deviation over the seeds); "
        f"calibrated on {setting['windows']} windows of {setting['length']} tokens of "
        f"{setting['calibration'][0]}, judged on windows of the same length: {judges}. "
        f"{said or 'No peer'}; {runs['dense']['machine']}."
    )
