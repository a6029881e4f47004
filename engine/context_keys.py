"""Context keys of a link, read off the TypedDicts in its signature."""

from __future__ import annotations

from typing import Any, NotRequired, Required, get_origin, get_type_hints, is_typeddict


def required_keys(annotation: Any) -> frozenset[str]:
    """The keys a TypedDict requires; none for any other annotation."""
    if not is_typeddict(annotation):
        return frozenset()
    # __required_keys__ misses these two markers where a module's annotations are strings.
    marks = {k: get_origin(h) for k, h in get_type_hints(annotation, include_extras=True).items()}
    required = {key for key, mark in marks.items() if mark is Required}
    optional = {key for key, mark in marks.items() if mark is NotRequired}
    return frozenset((annotation.__required_keys__ | required) - optional)


def all_keys(annotation: Any) -> frozenset[str] | None:
    """Every key of a TypedDict, optional ones included; None for any other annotation."""
    return frozenset(get_type_hints(annotation)) if is_typeddict(annotation) else None
