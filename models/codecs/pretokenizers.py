r"""How a tokenizer splits text before merging, and what llama.cpp calls that.

llama.cpp keeps the rules in its code and the file only names one. The name is looked up by the rule
itself, as the tokenizer's definition states it: normaliser, patterns in their order, and whether a
word that is a token is taken whole (``ignore_merges``). A rule that is not in the table is refused,
never guessed: text would be split differently, and the model would answer worse with no error.
The other way, a tokenizer read from a GGUF file is set to split as the file requires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from ...errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_PUNCTUATION_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_LLAMA_3 = rf"{_CONTRACTIONS}|{_LETTERS}\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION}"
_QWEN_2 = rf"{_CONTRACTIONS}|{_LETTERS}\p{{L}}+|\p{{N}}|{_PUNCTUATION}"
_GPT_4O = (
    rf"{_LETTERS}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LETTERS}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_PUNCTUATION_WITH_SLASH}"
)
_TEKKEN = (
    rf"{_LETTERS}{_UPPER}*{_LOWER}+|{_LETTERS}{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}|{_PUNCTUATION_WITH_SLASH}"
)

_Rule = tuple[tuple[str, ...], tuple[str, ...], bool]

_NAMES: Mapping[_Rule, str] = MappingProxyType(
    {
        ((), ("words and bytes",), False): "gpt-2",
        ((), ("digits", "words and bytes"), False): "smollm",
        ((), (f"split {_LLAMA_3}", "bytes"), True): "llama-bpe",
        ((), (f"split {_LLAMA_3}", "bytes"), False): "dbrx",
        (("NFC",), (f"split {_QWEN_2}", "bytes"), False): "qwen2",
        ((), (f"split {_QWEN_2}", "bytes"), False): "qwen2",
        ((), (f"split {_GPT_4O}", "bytes"), False): "gpt-4o",
        ((), (f"split {_TEKKEN}", "bytes"), True): "tekken",
    }
)

# Other names of the same rules, found in files.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "starcoder": "smollm",
        "refact": "smollm",
        "command-r": "smollm",
        "codeshell": "smollm",
        "llama3": "llama-bpe",
        "llama-v3": "llama-bpe",
        "smaug-bpe": "dbrx",
        "deepseek-r1-qwen": "qwen2",
    }
)

_PREFIXED: Mapping[tuple[tuple[str, ...], tuple[str, ...]], bool] = MappingProxyType(
    {
        (("prepend ▁", "replace   by ▁"), ()): True,
        (("replace   by ▁",), ()): False,
        (("replace   by ▁",), ("split   MergedWithPrevious",)): False,
        ((), ("spaces always",)): True,
        ((), ("spaces first",)): True,
        ((), ("spaces never",)): False,
    }
)


def splitting_name(definition: Mapping[str, Any], source: str) -> str:
    """llama.cpp's name for the rule of a byte-level BPE tokenizer.

    Args:
        definition: the tokenizer as tokenizer.json has it.

    Raises:
        ModelError: a rule that is not in the table.
    """
    model = definition["model"]
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    rule = (*_steps_of(definition), bool(model.get("ignore_merges")))
    if affixes or rule not in _NAMES:
        raise _unknown(rule[0], rule[1], source)
    return _NAMES[rule]


def split_as(tokenizer: Tokenizer, name: str) -> bool:
    """Make a byte-level BPE tokenizer split text by the rule llama.cpp calls that.

    Returns:
        Whether the rule is known; where it is not, nothing is changed.
    """
    called = _ALIASES.get(name, name)
    rule = next((rule for rule, known in _NAMES.items() if known == called), None)
    if rule is None:
        return False
    normalizer, steps, whole_words = rule
    tokenizer.normalizer = normalizers.NFC() if normalizer else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_pre_tokenizer(step) for step in steps])
    tokenizer.model.ignore_merges = whole_words
    return True


def _pre_tokenizer(step: str) -> Any:
    if step == "digits":
        return pre_tokenizers.Digits(individual_digits=True)
    if step.startswith("split "):
        return pre_tokenizers.Split(Regex(step.removeprefix("split ")), "isolated")
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step == "words and bytes")


def prefix_space(definition: Mapping[str, Any], source: str) -> bool:
    """Whether SentencePiece's BPE puts a space before the text.

    Raises:
        ModelError: text is split as llama.cpp does not.
    """
    rule = _steps_of(definition)
    if rule not in _PREFIXED:
        raise _unknown(*rule, source)
    return _PREFIXED[rule]


def _unknown(normalizer: tuple[str, ...], splitting: tuple[str, ...], source: str) -> ModelError:
    rule = ", then ".join([*normalizer, *splitting]) or "no splitting at all"
    return ModelError(
        f"the tokenizer of '{source}' prepares text by a rule that llama.cpp has no name for, so "
        f"it cannot be written as GGUF: {rule}"
    )


def _steps_of(definition: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _steps(definition["normalizer"]), _steps(definition["pre_tokenizer"])


def _steps(part: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The steps of a normaliser or pre-tokenizer as text, different if they split differently."""
    if part is None:
        return ()
    inner = part.get("normalizers", part.get("pretokenizers"))
    if inner is not None:
        return tuple(step for each in inner for step in _steps(each))
    describe = _STEPS.get(part["type"], _other)
    return (describe(part),)


def _other(part: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value!r}" for name, value in part.items() if name != "type")
    return f"{part['type']}({settings})" if settings else str(part["type"])


def _byte_level(part: Mapping[str, Any]) -> str:
    if part["add_prefix_space"]:
        return _other(part)
    return "words and bytes" if part.get("use_regex", True) else "bytes"


def _split(part: Mapping[str, Any]) -> str:
    # Patterns that leave nothing over: to isolate matches is to remove all but them.
    isolates = (part["behavior"], bool(part["invert"])) in (("Isolated", False), ("Removed", True))
    if "Regex" in part["pattern"] and isolates:
        return f"split {part['pattern']['Regex']}"
    if "String" in part["pattern"] and not part["invert"]:
        return f"split {part['pattern']['String']} {part['behavior']}"
    return _other(part)


def _digits(part: Mapping[str, Any]) -> str:
    return "digits" if part["individual_digits"] else _other(part)


def _metaspace(part: Mapping[str, Any]) -> str:
    if part["replacement"] != "▁" or part.get("split", True):
        return _other(part)
    return f"spaces {part['prepend_scheme']}"


def _replace(part: Mapping[str, Any]) -> str:
    if "String" not in part["pattern"]:
        return _other(part)
    return f"replace {part['pattern']['String']} by {part['content']}"


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "ByteLevel": _byte_level,
    "Split": _split,
    "Digits": _digits,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Prepend": lambda part: f"prepend {part['prepend']}",
}
