"""Settings of a link as one typed, frozen value: checked at run time and by mypy."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import Field

import birdbone
from birdbone.contexts.forecast import Forecast
from birdbone.engine import Chain, Settings, changed, link, run
from birdbone.errors import ChainError, LinkError, SettingError


class Weighed(TypedDict):
    weights: list[float]


class Thinned(TypedDict):
    thin: list[float]


class ThinSettings(Settings):
    """The settings of thin."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction to remove;
    half by default."""

    pattern: str
    """What to remove."""


seen: list[ThinSettings] = []


@link(ThinSettings)
async def thin(ctx: Weighed, settings: ThinSettings) -> Thinned:
    """Keep the first weights.

    Raises:
        ValueError: never.
    """
    seen.append(settings)
    return {"thin": ctx["weights"][:1]}


@thin.check
def _check(ctx: Any, settings: ThinSettings) -> None:
    seen.append(settings)
    if settings.pattern == "bad":
        raise SettingError("pattern is bad")


@thin.forecast
def _forecast(ctx: Weighed, settings: ThinSettings) -> Forecast:
    return Forecast(memory_bytes=len(ctx["weights"]))


@thin.follows
def _follows(settings: ThinSettings, earlier: Sequence[Any]) -> None:
    if earlier and settings.pattern == "first":
        raise ChainError("must be first")


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


async def test_body_and_hooks_receive_the_same_object() -> None:
    made = thin(pattern="a", sparsity=0.25)
    await run(made, {"weights": [1.0, 2.0]})
    assert len(seen) >= 2
    assert all(each is made.settings for each in seen)
    assert made.settings.sparsity == 0.25
    with pytest.raises(LinkError, match="link 'thin' failed: pattern is bad"):
        await run(thin(pattern="bad"), {"weights": []})
    with pytest.raises(ChainError, match="must be first"):
        Chain(thin(pattern="a"), thin(pattern="first"))


async def test_the_history_keeps_settings_as_plain_data() -> None:
    after = await run(thin(pattern="a"), {"weights": [1.0]})
    assert after["history"][-1].settings == {"sparsity": None, "pattern": "a"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsty": 0.5, "pattern": "a"}, r"thin has no setting 'sparsty'; did you mean 'spars"),
        ({"sparsity": 2, "pattern": "a"}, r"thin\(sparsity.*=2\): Input should be less than 1"),
        ({}, r"thin\(pattern\): Field required"),
        ({"self": 1}, r"thin has no setting 'self'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        thin(**settings)


class UnionSettings(Settings):
    """Settings that may be of several types, at the top and further in."""

    size: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    sizes: dict[str, Annotated[int, Field(ge=1)] | Literal["auto"]] | None = None
    many: tuple[int, ...] | str = ()


@link(UnionSettings)
async def cut(ctx: Weighed, settings: UnionSettings) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, r"cut\(size=0\): .* or equal to 1, or Input should be 'auto'"),
        ({"sizes": {"a": 0}}, r"cut\(sizes\.a=0\): .* or equal to 1, or Input should be 'auto'"),
        ({"many": [1, "x"]}, r"cut\(many\.1='x'\): .*integer.*; cut\(many=\[.*\]\): .* string"),
        ({"many": {"a": 1}}, r"cut\(many=\{'a': 1\}\): Input should be a valid tuple, or"),
    ],
)
def test_alternatives_of_a_union_are_one_sentence(settings: dict[str, Any], message: str) -> None:
    """The setting is named as the user wrote it, without names of pydantic's types."""
    with pytest.raises(SettingError, match=f"^{message}") as refused:
        cut(**settings)
    assert "constrained" not in str(refused.value)


def test_the_signature_shows_the_keyword_arguments() -> None:
    parameters = inspect.signature(thin).parameters
    assert list(parameters) == ["sparsity", "pattern"]
    assert all(each.kind is each.KEYWORD_ONLY for each in parameters.values())
    assert parameters["sparsity"].default is None
    assert parameters["pattern"].default is inspect.Parameter.empty
    assert parameters["sparsity"].annotation == float | None


def test_the_docstring_has_the_settings() -> None:
    entries = "Settings:\n    sparsity: Fraction to remove; half by default.\n    pattern: What"
    assert (thin.__doc__ or "").startswith("Keep the first weights.")
    assert entries in (thin.__doc__ or "")


def test_changed_settings_and_repr() -> None:
    made = thin(pattern="a")
    assert changed(made.settings) == {"pattern": "a"}
    assert repr(made) == "thin(pattern='a')"
    assert repr(Chain(made, len, name="two")) == "Chain(thin(pattern='a'), len, name='two')"
    assert repr(thin).startswith("thin(*, sparsity: ")
    assert copy.deepcopy(made) is made


def test_a_link_with_a_settings_type_takes_context_and_settings() -> None:
    with pytest.raises(ChainError, match=r"write 'async def odd\(ctx, settings\)'"):

        @link(ThinSettings)  # type: ignore[arg-type]
        async def odd(ctx: Weighed) -> Thinned:
            return {"thin": []}


_SNIPPET = """
from typing import Any, TypedDict
from birdbone.engine import Settings, link

class Empty(TypedDict):
    pass

class ThinSettings(Settings):
    sparsity: float | None = None

@link(ThinSettings)
async def thin(ctx: Empty, settings: ThinSettings) -> Empty:
    return {}

@thin.check
def _check(ctx: Any, settings: ThinSettings) -> None:
    print(settings.sparsty)

@link
async def cut(ctx: Empty, *, bits: int = 4) -> Empty:
    return {}

thin(sparsity=0.5)
thin(sparsty=0.5)
cut(bits=3)
cut(bit=3)
"""


# Only the engine and pydantic are read: torch and its like take mypy minutes.
_MYPY = """
[mypy]
strict = True
follow_imports = skip
ignore_missing_imports = True
[mypy-birdbone,birdbone.engine.*,birdbone.errors,pydantic.*,pydantic_core.*,annotated_types]
follow_imports = silent
[mypy-typing_extensions,typing_inspection.*]
follow_imports = silent
"""


def test_mypy_finds_misspelled_settings_in_hooks_and_calls(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(_SNIPPET)
    (tmp_path / "mypy.ini").write_text(_MYPY)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "snippet.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(Path(birdbone.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line.partition(": error: ")[2] for line in done.stdout.splitlines()[:-1]]
    assert [each for each in errors if each] == [
        '"ThinSettings" has no attribute "sparsty"; maybe "sparsity"?  [attr-defined]',
        (
            'Unexpected keyword argument "sparsty" for "__call__" of "LinkFactory"; '
            'did you mean "sparsity"?  [call-arg]'
        ),
        (
            'Unexpected keyword argument "bit" for "__call__" of "LinkFactory"; '
            'did you mean "bits"?  [call-arg]'
        ),
    ], (
        done.stdout + done.stderr
    )
