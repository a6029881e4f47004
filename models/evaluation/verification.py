"""Verify a saved folder against its record and, if it is at hand, against its source.

Nothing is run: files are compared with their checksums, the record with its own hash chain, and
the tokenizer, templates and config with those of the source. `proof` checks what it computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...checkpoints import Checkpoint
from ...errors import CheckpointError
from ..reading.folder_files import is_of_tokenizer
from ..writing.hash_chain import hash_chain
from .original import open_original, recorded_steps
from .proof import Check, Proof, read_papers
from .signature import check_signature

# Config keys that saving, loading or quantising may set; sizes change only by pruning.
_WRITTEN = frozenset(
    [
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "quantization_config",
        "tie_word_embeddings",
        "transformers_version",
        "use_cache",
        "_name_or_path",
    ]
)
_SIZES = [
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "moe_intermediate_size",
    "ffn_dim",
    "n_inner",
    "ffn_hidden_size",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "n_layer",
    "num_layers",
]


def verify(
    folder: Path,
    source: str | None = None,
    *,
    signed_by: Path | None = None,
    trust_remote_code: bool = False,
) -> Proof:
    """Check a saved folder's files and record, and compare it with its source if that is given.

    Args:
        source: the model it was made from, as `load` takes it.
        signed_by: file of the public key with which the record must be signed.
        trust_remote_code: allow Python code of the source to run.

    Raises:
        CheckpointError: there is no such folder, or it contains no model.
        ModelError: the source cannot be found or read.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"'{folder}' is not a folder with a config.json; nothing to verify")
    papers = read_papers(folder)
    facts = papers.facts
    checks = [_steps(facts)]
    if signed_by is not None:
        checks.append(check_signature(folder, signed_by))
    if source is None:
        words = "no source was given, so tensors, tokenizer and config are not compared with it"
        checks.append(Check("source", None, words))
    else:
        original = open_original(facts, source, trust_remote_code=trust_remote_code)
        checks += [
            _same_original(facts, original, source),
            carried_files(folder, original),
            config_keys(folder, original, pruned=_pruned(facts)),
        ]
    return papers.with_checks(checks)


def is_verified(found: Proof) -> bool:
    """Whether there is a record and no check failed.

    Checks that could not be made are allowed, except that of a signature that was asked for.
    """
    recorded = any(check.name == "record" and check.holds for check in found.checks)
    unsigned = any(check.name == "signature" and not check.holds for check in found.checks)
    return recorded and not found.failed and not unsigned


def _steps(facts: Mapping[str, Any]) -> Check:
    """The record against its own hash chain."""
    recorded = facts.get("chain")
    if not isinstance(recorded, list):
        return Check("steps", None, "the record has no hash chain; saved by an earlier version")
    steps, files = recorded_steps(facts), facts.get("files")
    if steps is None or not isinstance(files, Mapping):
        return Check("steps", False, "the record is damaged: its steps or files cannot be read")
    wanted = hash_chain(str(facts.get("dense")), steps, files)
    if recorded == wanted:
        return Check("steps", True, f"{len(steps)} steps and the list of files, as recorded")
    pairs = list(zip(recorded, wanted, strict=False))
    place = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
    names = ["the original model", *(f"step '{step.get('link')}'" for step in steps)]
    changed = names[place] if place < len(names) else "the list of files"
    return Check("steps", False, f"the record was changed after saving, first at {changed}")


def _pruned(facts: Mapping[str, Any]) -> bool:
    return any(step.get("link") == "prune" for step in recorded_steps(facts) or ())


def _same_original(facts: Mapping[str, Any], original: Checkpoint, source: str) -> Check:
    recorded = facts.get("dense")
    same = recorded == original.id
    words = f"'{source}' has id {original.id[:12]}, the record says {str(recorded)[:12]}"
    return Check("source", same, words if not same else f"{words}: the same tensors and config")


def carried_files(folder: Path, original: Checkpoint) -> Check:
    """Compare the tokenizer and the templates with those of the original model."""
    files = {name: data for name, data in original.files.items() if is_of_tokenizer(name)}
    faults = []
    for name, data in files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.read_bytes() != data:
            faults.append(f"{name} is not that of the source")
    if faults:
        return Check("tokenizer", False, "; ".join(faults))
    return Check("tokenizer", True, f"{len(files)} files of tokenizer and templates, as the source")


def config_keys(folder: Path, original: Checkpoint, *, pruned: bool) -> Check:
    """Compare the config with the original model's, but for keys that saving sets.

    Args:
        pruned: whether sizes may differ too.
    """
    now = _flat(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    then = _flat(original.config)
    differing = sorted(
        key
        for key in now.keys() | then.keys()
        if now.get(key) != then.get(key) and not _may_differ(key, pruned)
    )
    if differing:
        listed = "; ".join(
            f"{key} is {now.get(key)!r}, the source has {then.get(key)!r}" for key in differing
        )
        return Check("config", False, listed)
    return Check("config", True, "every key that no step changes is that of the source")


def _may_differ(key: str, pruned: bool) -> bool:
    if any(part in _WRITTEN for part in key.split(".")):
        return True
    last = key.rpartition(".")[2]
    return pruned and (last in _SIZES or "layer" in last)


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; a key without a value counts as absent."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        elif value is not None:
            found[f"{before}{key}"] = value
    return found
