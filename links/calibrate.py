"""calibrate: read text, split it into parts without overlap, and tokenise it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from ..contexts.flow import Calibrating, Opened, Partial
from ..contexts.forecast import Forecast
from ..engine import Settings, in_thread, link
from ..errors import LittleTextWarning, SettingError
from ..models.blocks.empty_model import text_config
from ..models.reading.tokenizer import load_tokenizer
from ..texts import DataSetting, Windows, check_vocabulary, mixed_windows, read_raw
from .calibrating.amount import default_windows, shortage, widest_input
from .calibrating.forecast import texts_forecast
from .calibrating.own_text import own_text, tokens_to_sample, windows_to_sample
from .calibrating.parts import PARTS, read_parts
from .calibrating.sources import PartSources

_SETTING = {
    "calibration": "windows",
    "healing": "healing_windows",
    "heldout": "heldout_windows",
    "elsewhere": "elsewhere_windows",
}


class CalibrateSettings(Settings):
    """The settings of calibrate."""

    data: DataSetting = "default"
    """One source of text or several: a file, folder or glob of .txt, .md, .jsonl, .json or
    .parquet, also compressed; hf:DATASET[:CONFIG[:SPLIT]]; or a built-in text: pydoc, the
    documentation of CPython; stdlib, the Python source of its library; readmes, the prose of the
    READMEs of the packages birdbone requires; self, text sampled from the original model; default,
    self, pydoc and stdlib in the proportions that did best on other texts (docs/text.md). Options
    follow a question mark, as in ?column=NAME&rows=COUNT, and a weight a colon, as in
    chat.jsonl:2."""

    heldout_data: DataSetting | None = None
    """Sources of the held-out windows; by default a part of data."""

    elsewhere: DataSetting | None = None
    """Other sources to evaluate on; by default the first of stdlib, pydoc and readmes that is not
    used otherwise."""

    windows: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of calibration windows; by default 20 tokens per input of the widest linear,
    at least 64 windows and at most 262144 tokens beyond those."""

    healing_windows: Annotated[int, Field(ge=1)] = 64
    """Maximum number of windows to train on."""

    heldout_windows: Annotated[int, Field(ge=1)] = 16
    """Maximum number of held-out windows, which are evaluated on."""

    elsewhere_windows: Annotated[int, Field(ge=1)] = 16
    """Maximum number of windows from the other sources."""

    length: Annotated[int, Field(ge=2)] = 512
    """Tokens per window."""

    seed: int = 0
    """Seed of the split into parts and of the choice of windows."""

    def sources(self) -> PartSources:
        """The sources of each part.

        Raises:
            SettingError, DataError: a source is misspelled, or no built-in text is left.
        """
        return PartSources.parse(self.data, self.heldout_data, self.elsewhere)

    def limits(self, width: int) -> dict[str, int]:
        """The maximum number of windows by part, for a widest linear with so many inputs."""
        counts = (
            default_windows(width, self.length) if self.windows is None else self.windows,
            self.healing_windows,
            self.heldout_windows,
            self.elsewhere_windows,
        )
        return dict(zip(PARTS, counts, strict=True))


@link(CalibrateSettings)
async def calibrate(ctx: Opened, settings: CalibrateSettings) -> Calibrating:
    """Read text and cut it into windows: to calibrate on, to heal on and to evaluate on.

    No text is in two parts. The fourth part, elsewhere, is from a source that no other part is
    from: a model compressed with one kind of text is evaluated on another kind too. Windows of
    several sources are in proportion to their weights. Conversations are rendered by the model's
    chat template.

    Raises:
        DataError: a source cannot be read or is too short, a conversation cannot be rendered, or
            two parts share text.
        MissingExtraError: a package that reads a source is not installed.
        ModelError: text is to be sampled from a model whose logits are not finite, or that has no
            key-value cache.
    """
    width = await in_thread(widest_input, ctx["checkpoint"])
    limits = settings.limits(width)
    found = await in_thread(_read, ctx, settings, limits)
    _warn_of_little(found, limits, width)
    return {
        "calibration": found["calibration"],
        "healing": found["healing"],
        "heldout": found["heldout"],
        "elsewhere": found["elsewhere"],
        "metrics": {
            **{f"{part}_tokens": found[part].num_tokens for part in PARTS},
            "tokens_per_input": round(found["calibration"].num_tokens / width, 2),
        },
    }


def _read(
    ctx: Opened, settings: CalibrateSettings, limits: Mapping[str, int]
) -> dict[str, Windows]:
    checkpoint, sources = ctx["checkpoint"], settings.sources()
    tokenizer = load_tokenizer(checkpoint)
    length, seed = settings.length, settings.seed
    sampled = windows_to_sample(sources.data, limits)
    own = None
    if sampled:
        dense = ctx.get("dense", checkpoint)
        own = own_text(dense, tokenizer, tokens_to_sample(sampled, length), seed)
    parts = read_parts(
        sources,
        tokenizer,
        length=length,
        elsewhere_windows=limits["elsewhere"],
        seed=seed,
        own=own,
        own_shares=sampled,
    )
    vocab_size = text_config(checkpoint).vocab_size
    found = {}
    for part, texts in parts.items():
        found[part] = mixed_windows(
            texts, tokenizer, length=length, limit=limits[part], text=part, seed=seed
        )
        check_vocabulary(found[part], vocab_size)
    return found


def _warn_of_little(found: Mapping[str, Windows], limits: Mapping[str, int], width: int) -> None:
    for part, limit in limits.items():
        if found[part].num_windows < limit:
            warnings.warn(
                f"calibrate({_SETTING[part]}={limit}): the text has only "
                f"{found[part].num_windows} windows of {found[part].length} tokens",
                stacklevel=3,
            )
    short = shortage(found["calibration"].num_tokens, width, found["calibration"].length)
    if short is not None:
        warnings.warn(f"calibrate: {short}", LittleTextWarning, stacklevel=3)


@calibrate.reads
def _reads(settings: CalibrateSettings) -> Mapping[str, str]:
    """The digests of the texts, so that a file changed under the same name is another text.

    Text sampled from the model has none: model, seed and settings decide it.
    """
    return {each.spelled: read_raw(each).digest for each in settings.sources().all}


@calibrate.check
def _check(ctx: Partial, settings: CalibrateSettings) -> None:
    """Misspelled sources, and windows longer than the model's maximum number of positions."""
    settings.sources()
    if "checkpoint" not in ctx:
        return
    positions = getattr(text_config(ctx["checkpoint"]), "max_position_embeddings", None)
    if positions is not None and settings.length > positions:
        raise SettingError(
            f"calibrate(length={settings.length}): the model has {positions} positions; "
            f"set length to {positions} or less"
        )


@calibrate.forecast
def _forecast(ctx: Opened, settings: CalibrateSettings) -> Forecast:
    """The sources, read, and outlines of the windows they yield."""
    checkpoint = ctx["checkpoint"]
    limits = settings.limits(widest_input(checkpoint))
    return texts_forecast(
        checkpoint, settings.sources(), limits, length=settings.length, seed=settings.seed
    )
