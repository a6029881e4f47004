"""The page of a report: one HTML file with everything in it, which opens without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from ...errors import DataError
from . import examples, sections
from .records import ModelRecord
from .summary import summary

_CSS = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2126; --soft: #f2f4f6; --line: #d5dade; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181c; --text: #e3e7ea; --soft: #1f252b; --line: #39424a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-top: 1.4rem; }
h1, h2, h3 { overflow-wrap: anywhere; } td:last-child { overflow-wrap: anywhere; }
figure { margin: 1rem 0; overflow-x: auto; }
svg { width: 100%; height: auto; min-width: 30rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; min-width: 20rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.7rem 0.3rem 0; text-align: left;
  vertical-align: top; }
.numbers td:nth-child(n + 2), .numbers th:nth-child(n + 2) { text-align: right;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.facts, .sides { display: grid; gap: 0.8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(13rem, 100%), 1fr)); }
.facts div { background: var(--soft); padding: 0.6rem 0.8rem; }
.facts dt { font-size: 0.85rem; } .facts dd { margin: 0; font-weight: 600;
  overflow-wrap: anywhere; }
.sample { border-top: 1px solid var(--line); padding: 0.4rem 0; }
.sample p { margin: 0.2rem 0 0.6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
h4 { font-size: 0.85rem; margin: 0.4rem 0 0; font-weight: 600; }
mark { background: #e8a33d55; color: inherit; }
.remark { background: var(--soft); border-left: 3px solid #e8a33d; padding: 0.5rem 0.8rem; }
nav a { margin-right: 0.9rem; color: inherit; }
"""

# No scripts and no requests, whatever the texts of a record contain.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_SECTIONS: tuple[tuple[str, Callable[[ModelRecord], str]], ...] = (
    ("Cost", sections.headline),
    ("Layers", sections.layers),
    ("Healing", sections.healing),
    ("Generated text", examples.samples),
    ("Where the models differ most", examples.worst_windows),
    ("Speed and memory", sections.speed),
    ("Links", sections.links),
    ("Provenance", sections.provenance),
)


def report_page(models: Sequence[ModelRecord]) -> str:
    """The report of one or several models as a self-contained HTML document.

    Raises:
        DataError: a record that birdbone did not write.
    """
    title = ", ".join(model.name for model in models)
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(models) > 1:
        links = "".join(f'<a href="#m{i}">{escape(m.name)}</a>' for i, m in enumerate(models))
        parts.append(f"<nav>{links}</nav>")
    parts.append(_content(partial(summary, models), title))
    overview = _content(partial(sections.size_and_quality, models), title)
    if overview:
        parts.append(f"<h2>Size and quality</h2>{overview}")
    for place, model in enumerate(models):
        if len(models) > 1:
            parts.append(f'<h1 id="m{place}">{escape(model.name)}</h1>')
        for heading, section in _SECTIONS:
            content = _content(partial(section, model), model.name)
            if content:
                parts.append(f"<section><h2>{heading}</h2>{content}</section>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}: bird-bone</title><style>{_CSS}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _content(section: Callable[[], str], name: str) -> str:
    """A section of a record, which is a file that may hold anything."""
    try:
        return section()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"the record of '{name}' is not one that birdbone wrote "
            f"({type(error).__name__}: {error}); give a folder that birdbone saved"
        ) from error
