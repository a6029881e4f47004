"""Upload a saved model to the Hugging Face hub in one commit, and compare what arrived.

Only files of the model's record are uploaded, so nothing else that lies in the folder gets out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ...checkpoints.durable import file_hash
from ...errors import BirdboneError, HubError, SettingError
from .publishing import PROVENANCE, path_of

# httpx's or httpx2's, by the version of huggingface_hub.
_NetworkError: type[Exception] = HfHubHTTPError.__bases__[0]

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_SIGNATURE = f"{PROVENANCE}.minisig"
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Pushed:
    """What an upload made.

    Attributes:
        url: of the commit.
        private: whether only its owner can see the repository.
        removed: weight files of an earlier model that the commit deleted.
    """

    url: str
    private: bool
    removed: tuple[str, ...]


def check_repo(repo: str) -> None:
    """Check the form of a repository's name.

    Raises:
        SettingError: it is not NAME or OWNER/NAME in the characters that the hub allows.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SettingError(
            f"'{repo}' is no name of a repository, write OWNER/NAME: {error}"
        ) from None


def files_to_push(saved: Path) -> dict[str, Path]:
    """The recorded files of a saved folder or GGUF file by their names in the repository.

    With them goes the record, and its signature if there is one.

    Raises:
        OSError, ValueError: the record cannot be read.
    """
    facts = json.loads(path_of(saved, PROVENANCE).read_text(encoding="utf-8"))
    names = (*facts["files"], PROVENANCE, _SIGNATURE)
    paths = {name: path_of(saved, name) for name in names}
    return {name: path for name, path in paths.items() if path.is_file()}


def push_files(
    files: Mapping[str, Path],
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    message: str = "Upload a model made by bird-bone",
    endpoint: str | None = None,
    token: str | None = None,
) -> Pushed:
    """Upload files in one commit, to a repository that is created if it does not exist.

    Weight files of another model in the repository (safetensors and their index) are deleted in
    the same commit, because loaders would mix them up with the new ones.

    Args:
        files: paths by name in the repository.
        public: create the repository for everybody, or allow that an existing one is public.
        revision: branch; the main branch by default.
        endpoint, token: of the hub; by default those huggingface_hub is configured with.

    Raises:
        SettingError: the repository is public and ``public`` is off.
        HubError: the hub cannot be reached, refuses, or holds other files than were sent.
    """
    api = HfApi(endpoint=endpoint, token=token)
    with _hub_errors(repo):
        private = _prepared(api, repo, public=public, revision=revision)
        there = set(api.list_repo_files(repo, revision=revision))
        removed = tuple(sorted(name for name in there - files.keys() if _is_weights(name)))
        operations: list[Any] = [CommitOperationDelete(name) for name in removed]
        operations += [CommitOperationAdd(name, path) for name, path in files.items()]
        commit = api.create_commit(
            repo, operations, commit_message=message, revision=revision, num_threads=2
        )
        _compare(api, repo, files, commit.oid)
    return Pushed(str(commit.commit_url), private, removed)


def _prepared(api: HfApi, repo: str, *, public: bool, revision: str | None) -> bool:
    """Create the repository and the branch if they are missing; whether it is private."""
    try:
        private = bool(api.model_info(repo).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public)
        private = not public
    if not private and not public:
        raise SettingError(
            f"repository '{repo}' exists and is public; give --public to publish there, or another "
            f"name"
        )
    if revision is not None:
        api.create_branch(repo, branch=revision, exist_ok=True)
    return private


def _is_weights(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _WEIGHTS)


def _compare(api: HfApi, repo: str, files: Mapping[str, Path], revision: str) -> None:
    """Compare sizes, and checksums of large files, of what the hub holds.

    Raises:
        HubError: a file is missing or is another.
    """
    info = api.model_info(repo, revision=revision, files_metadata=True)
    held = {each.rfilename: each for each in info.siblings or ()}
    for name, path in files.items():
        found = held.get(name)
        if found is None:
            raise HubError(f"'{name}' is not in '{repo}' after the upload; push again")
        checksum = None if found.lfs is None else found.lfs.sha256
        if found.size not in (None, path.stat().st_size) or checksum not in (None, file_hash(path)):
            raise HubError(f"'{name}' in '{repo}' differs from the file that was sent; push again")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Errors of huggingface_hub as one sentence with the fix."""
    try:
        yield
    except BirdboneError:
        raise
    except OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it") from None
    except LocalTokenNotFoundError:
        raise HubError(f"the hub needs a login; {_LOGIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        fix = f"; {_LOGIN}" if status in (401, 403) else ""
        raise HubError(f"the hub refused '{repo}' ({status}): {_reason(error)}{fix}") from error
    except (_NetworkError, RuntimeError, ValueError) as error:
        raise HubError(f"'{repo}' could not be pushed: {error}; try again") from error


def _reason(error: HfHubHTTPError) -> str:
    return (error.server_message or str(error)).strip().splitlines()[0]
