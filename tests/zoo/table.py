"""``docs/architectures.md``: what becomes of every architecture, one row each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from zoo.configs import ALL
from zoo.trial import Outcome

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"

VERDICTS = ("handled", "dense only", "refused", "failed")

_INTRODUCTION = """# Architectures

Every architecture for which transformers has a causal language model, and some variants, tried with
a tiny random model of a few blocks: `load`, `quantize(method="rtn", bits=4, group_size="auto")`,
writing the folder, and opening it with plain transformers in a process that does not import
birdbone, where its logits must be those of the model in memory. `tests/zoo` makes this page
(`make test MARKED=slow`); do not edit it.

| verdict | meaning |
|---|---|
| handled | every step works, and no tensor is lost |
| dense only | the same without 4 bits: `quantize` refuses, as no weight fits a packed format |
| refused | `load`, or the trial of `save` before a run, refuses the model in the sentence given |

Where the fraction is below 100 %, the rest stays dense, as packed formats hold linears alone:
experts that files hold in one 3-D tensor, convolutions, and small matrices such as routers do not
fit. Neither do linears whose weight the model's own code reads, when it runs or when transformers
loads it.

"""


def table(outcomes: Iterable[Outcome]) -> str:
    """The page in Markdown, in the order of `ALL`."""
    by_name = {each.model_type: each for each in outcomes}
    found = [by_name[name] for name in ALL if name in by_name]
    counts = dict.fromkeys(VERDICTS, 0)
    for each in found:
        counts[each.verdict] += 1
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    used = ", ".join(
        f"{name} {version(name)}" for name in ("transformers", "torch", "compressed-tensors")
    )
    rows = [
        f"| {each.model_type} | {each.architecture} | {each.verdict} | {_cell(each)} |"
        for each in found
    ]
    return "\n".join(
        [
            f"{_INTRODUCTION}Tried with {used}: {counted}.",
            "",
            "| model type | class | verdict | note |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _cell(outcome: Outcome) -> str:
    return (outcome.sentence or outcome.remarks).replace("|", "\\|")


def read_table(path: Path = TABLE) -> Mapping[str, Outcome]:
    """The rows of a page by model type."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]
        if len(cells) == 4 and cells[0] in ALL:
            name, architecture, verdict, note = (cell.replace("\0", "|") for cell in cells)
            is_note = verdict == "handled"
            found[name] = Outcome(
                name, architecture, verdict, "" if is_note else note, note if is_note else ""
            )
    return found
