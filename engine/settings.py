"""Settings of a link: one typed, frozen value that its body and its hooks receive."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, dataclass_transform, get_type_hints

import pydantic

from ..errors import ChainError, SettingError, did_you_mean


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(pydantic.Field,))
class Settings(pydantic.BaseModel, frozen=True):
    """Base class of a link's settings: a frozen pydantic model that refuses unknown names.

    The string below a field is its documentation; `birdbone links NAME` and docs/links.md print it.
    ``dict(settings)`` returns the values by name::

        class PruneSettings(Settings):
            sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.5
            '''Fraction of the weights to remove.'''
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


S = TypeVar("S", bound=Settings)


def changed(settings: Settings) -> dict[str, Any]:
    """The settings that differ from their defaults, by name."""
    fields = type(settings).model_fields
    return {name: value for name, value in settings if value != fields[name].default}


def check_names(link: str, settings: type[Settings], names: Iterable[str]) -> None:
    """Refuse a name that is not a setting.

    Raises:
        SettingError: with the nearest name that is one.
    """
    for name in names:
        if name not in settings.model_fields:
            hint = did_you_mean(name, settings.model_fields)
            raise SettingError(f"{link} has no setting '{name}'; {hint}")


def validated(link: str, settings: type[S], given: Mapping[str, Any]) -> S:
    """The settings of a link from keyword arguments.

    Raises:
        SettingError: an unknown name, a wrong type, or a value out of range.
    """
    check_names(link, settings, given)
    try:
        return settings(**given)
    except pydantic.ValidationError as error:
        raise SettingError(_explained(link, error, given)) from None


def from_parameters(
    link: str, parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]
) -> type[Settings]:
    """The settings type of a link written with keyword-only parameters.

    Raises:
        ChainError: a parameter is not keyword-only, or has no annotation.
    """
    fields: dict[str, Any] = {}
    for each in parameters:
        if each.kind is not each.KEYWORD_ONLY or each.name not in hints:
            raise ChainError(f"setting '{each.name}' of link {link} must be keyword-only and typed")
        fields[each.name] = (hints[each.name], ... if each.default is each.empty else each.default)
    name = f"{link.title().replace('_', '')}Settings"
    return pydantic.create_model(name, __base__=Settings, **fields)


def documented(doc: str | None, settings: type[Settings]) -> str | None:
    """A docstring with the section ``Settings:`` written from the fields' documentation."""
    entries = [
        textwrap.fill(
            f"{name}: {' '.join(field.description.split())}",
            width=96,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
            break_on_hyphens=False,
        )
        for name, field in settings.model_fields.items()
        if field.description
    ]
    if not entries:
        return doc
    return "\n".join([inspect.cleandoc(doc or ""), "", "Settings:", *entries, ""])


def signature_of(settings: type[Settings], returns: Any) -> inspect.Signature:
    """The keyword arguments that make the settings, for ``inspect.signature`` and completion."""
    hints = get_type_hints(settings)
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[name],
            default=inspect.Parameter.empty if field.is_required() else field.default,
        )
        for name, field in settings.model_fields.items()
    ]
    return inspect.Signature(parameters, return_annotation=returns)


def _explained(link: str, error: pydantic.ValidationError, given: Mapping[str, Any]) -> str:
    faults: dict[str, list[str]] = {}
    for fault in error.errors():
        missing = fault["type"] == "missing"
        setting = ".".join(_address(fault["loc"], given, missing=missing))
        value = "" if missing else f"={fault['input']!r}"
        faults.setdefault(f"{link}({setting}{value})", []).append(fault["msg"])
    return "; ".join(f"{what}: {', or '.join(dict.fromkeys(why))}" for what, why in faults.items())


def _address(place: Iterable[str | int], given: Any, *, missing: bool) -> Iterator[str]:
    """The names and positions in a place; pydantic also names the alternative of a union there."""
    value = given
    for part in place:
        if isinstance(value, Mapping) and (part in value or missing):
            value = value.get(part)
        elif isinstance(value, list | tuple) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            continue
        yield str(part)
