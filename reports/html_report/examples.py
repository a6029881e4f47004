"""The sections of a report that show text: continuations, and the windows that differ most."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .elements import listed, mapping, remark
from .records import ModelRecord

_ORIGINS = {
    "heldout": "held-out text",
    "elsewhere": "text from elsewhere",
    "chat": "chat template",
    "sentence": "built-in sentence",
}


def samples(model: ModelRecord) -> str:
    """Greedy continuations of the same prompts; from where they part, both are marked."""
    shown = [_sample(each) for each in listed(model.facts, "samples")]
    missing = model.facts.get("samples_missing")
    if missing:
        shown.append(remark(str(missing)))
    return "".join(shown)


def _sample(each: Mapping[str, Any]) -> str:
    prompt, dense, light = (str(each.get(key, "")) for key in ("prompt", "dense", "light"))
    origin = _ORIGINS.get(str(each.get("origin")), "prompt")
    same = _common(dense, light)
    sides = "".join(
        f"<div><h4>{name}</h4><p>{_marked(text, same)}</p></div>"
        for name, text in (("original", dense), ("light", light))
    )
    equal = "<p>Both models write the same.</p>" if dense == light else ""
    return (
        f'<div class="sample"><h4>{origin}</h4><p>{escape(prompt)}</p>'
        f'<div class="sides">{sides}</div>{equal}</div>'
    )


def _marked(text: str, same: int) -> str:
    rest = text[same:]
    return escape(text[:same]) + (f"<mark>{escape(rest)}</mark>" if rest else "")


def _common(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next(
        (place for place, (one, other) in enumerate(pairs) if one != other),
        min(len(first), len(second)),
    )


def worst_windows(model: ModelRecord) -> str:
    """Of each text the windows with the largest KL divergence, around their worst token."""
    parts = []
    found = mapping(model.facts, "worst_windows")
    for text in found:
        windows = "".join(_window(each) for each in listed(found, text))
        if windows:
            parts.append(f"<h3>{escape(_ORIGINS.get(text, text))}</h3>{windows}")
    if not parts:
        return ""
    words = "Windows with the largest mean KL divergence; the token that differs most is marked."
    return f"<p>{words}</p>{''.join(parts)}"


def _window(each: Mapping[str, Any]) -> str:
    figures = (
        f"window {each.get('window')}: KL {each.get('mean_kl', 0.0):.3f} nats/token, perplexity "
        f"{each.get('rise', 0.0):+.1%}, {each.get('measured_on')}"
    )
    words = ""
    if "token" in each:
        before, token, after = (escape(str(each.get(k, ""))) for k in ("before", "token", "after"))
        words = f"<p>{before}<mark>{token}</mark>{after}</p>"
    return f'<div class="sample"><h4>{escape(figures)}</h4>{words}</div>'
