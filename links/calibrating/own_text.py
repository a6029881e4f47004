"""The sources that need no text of the user's: `self`, sampled from the model, and `default`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from ...checkpoints import Checkpoint
from ...engine import announce, unfinished
from ...errors import SettingError
from ...models.sampling.self_text import sample_text
from ...texts import Corpus, TextAddress
from ...texts.split import DEFAULT_SHARES

SELF = "self"
DEFAULT = "default"
NAME = "self (sampled from the model)"
"""What text of the model itself is printed as."""

# Proportions measured on texts that none of the three is from (docs/text.md): more Python costs
# on prose more than it gains on source code.
_MIXTURE = ((SELF, 20.0), ("pydoc", 1.0), ("stdlib", 2.0))
# Text that is tokenised again may have fewer tokens, and documents do not divide evenly over parts:
# this factor, and one more window for each part.
_MARGIN = 1.1


def expanded(addresses: tuple[TextAddress, ...]) -> tuple[TextAddress, ...]:
    """The addresses with `default` replaced by the sources it stands for.

    Raises:
        SettingError: `default` or `self` has options, or a source of `default` is named beside it.
    """
    found: list[TextAddress] = []
    for each in addresses:
        if each.place in (SELF, DEFAULT) and each.spelled != each.place:
            raise SettingError(
                f"text '{each.spelled}': '{each.place}' takes a weight and no other option"
            )
        if each.place != DEFAULT:
            found.append(each)
            continue
        total = sum(weight for _, weight in _MIXTURE)
        found += [
            TextAddress(place, weight=each.weight * weight / total) for place, weight in _MIXTURE
        ]
    places = [each.place for each in found]
    for place, _ in _MIXTURE:
        if any(each.place == DEFAULT for each in addresses) and places.count(place) > 1:
            raise SettingError(f"text 'default' holds '{place}' already; leave '{place}' out")
    return tuple(found)


def refuse_self(addresses: tuple[TextAddress, ...], setting: str) -> None:
    """Refuse to evaluate a model on text that it generated.

    Raises:
        SettingError: `self` or `default` is among the addresses.
    """
    for each in addresses:
        if each.place in (SELF, DEFAULT):
            raise SettingError(
                f"{setting}='{each.place}': text sampled from the model is for data alone; name "
                f"a text that no model generated"
            )


def windows_to_sample(data: tuple[TextAddress, ...], limits: Mapping[str, int]) -> dict[str, float]:
    """Windows of the model's own text that each part needs; empty if `self` is no source.

    Args:
        data: sources of calibration, healing and held-out text.
        limits: maximum number of windows by part.
    """
    own = sum(each.weight for each in data if each.place == SELF)
    if not own:
        return {}
    fraction = own / sum(each.weight for each in data)
    return {part: _MARGIN * math.ceil(fraction * limits[part]) + 1 for part in DEFAULT_SHARES}


def tokens_to_sample(windows: Mapping[str, float], length: int) -> int:
    """Tokens to sample for so many windows of each part."""
    return math.ceil(sum(windows.values()) * length)


def own_text(
    checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, num_tokens: int, seed: int
) -> Corpus:
    """Text sampled from a model, under the name it is printed as.

    Raises:
        ModelError, DataError: the model cannot be sampled from, or its text is of no use.
    """
    documents = sample_text(
        checkpoint,
        tokenizer,
        num_tokens,
        seed=seed,
        unfinished=unfinished(),
        announce=lambda done, total: announce("tokens sampled", done, total),
    )
    return Corpus(NAME, documents)
