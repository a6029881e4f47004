"""Tensors of a folder that the transformers class of its config has no parameter for.

Heads for multi-token prediction, vision towers of a model whose text part alone is built, adapters
that were not merged, layers beyond the config's count: `from_pretrained` skips them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...checkpoints import TensorRef

_GROUPS_NAMED = 4


def in_words(unused: Mapping[str, TensorRef], known: Iterable[str]) -> str:
    """Count, bytes and what the tensors are called, such as "12 tensors (245,760 bytes): mtp".

    Args:
        known: names of the model's parameters, which a group's name must not begin.
    """
    groups = grouped(unused, known)
    named = ", ".join(list(groups)[:_GROUPS_NAMED])
    more = f" and {len(groups) - _GROUPS_NAMED} more" if len(groups) > _GROUPS_NAMED else ""
    size = sum(ref.num_bytes for ref in unused.values())
    count = "1 tensor" if len(unused) == 1 else f"{len(unused)} tensors"
    return f"{count} ({size:,} bytes): {named}{more}"


def grouped(names: Iterable[str], known: Iterable[str]) -> dict[str, int]:
    """How many tensors there are under each shortest prefix that no parameter has.

    Args:
        known: names of the model's parameters.
    """
    taken = {prefix for name in known for prefix in _prefixes(name)}
    groups: dict[str, int] = {}
    for name in names:
        group = next((prefix for prefix in _prefixes(name) if prefix not in taken), name)
        groups[group] = groups.get(group, 0) + 1
    return groups


def _prefixes(name: str) -> list[str]:
    """The modules a tensor lies in, outermost first, and the tensor itself."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
