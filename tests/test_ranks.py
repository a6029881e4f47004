"""Chains on two processes: the same results as on one, and how a failing rank ends the other."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from rank_cases import CASES, found

PROGRAM = Path(rank_cases.__file__)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def start(*arguments: object, size: int = 2) -> list[tuple[int, str]]:
    """Exit codes and standard error of ranks that run the program."""
    port, processes = free_port(), []
    for rank in range(size):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-W", "ignore", str(PROGRAM), *map(str, arguments)]
        processes.append(
            subprocess.Popen(
                command, env={**os.environ, **own, **there}, stderr=subprocess.PIPE, text=True
            )
        )
    errors = [each.communicate()[1] for each in processes]
    return [(each.returncode, error) for each, error in zip(processes, errors, strict=True)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    ended = start(folder)
    files = [folder / f"rank{rank}.pt" for rank in range(2)]
    assert all(each.exists() for each in files), ended
    return [torch.load(each, weights_only=False) for each in files]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:quantize", r"ignore:heal\(shard=True\)")
def test_two_ranks_give_what_one_gives(name: str, two: list[dict[str, Any]]) -> None:
    alone, both = found(name), [each[name] for each in two]
    assert both[0]["id"] == both[1]["id"]
    assert both[0]["tensors"].keys() == alone["tensors"].keys()
    for key, tensor in alone["tensors"].items():
        torch.testing.assert_close(both[0]["tensors"][key], tensor, rtol=1e-4, atol=1e-6)
        assert torch.equal(both[0]["tensors"][key], both[1]["tensors"][key])
    assert both[0]["metrics"] == alone["metrics"]
    assert both[0]["files"] == alone["files"]


def test_the_same_bytes_again(two: list[dict[str, Any]]) -> None:
    assert two[0]["again"] == {name: two[0][name]["id"] for name in two[0]["again"]}


def test_steps_of_one_window_give_the_bytes_of_one_rank(two: list[dict[str, Any]]) -> None:
    assert two[0]["heal blocks"]["id"] == found("heal blocks")["id"]


def test_divided_weights_keep_their_zeros(two: list[dict[str, Any]]) -> None:
    before, after = (two[0][name]["tensors"] for name in ("experts' zeros", "heal full, divided"))
    pruned = [
        name for name, tensor in before.items() if name.startswith("model") and (tensor == 0).any()
    ]
    assert len(pruned) > 10
    for name in pruned:
        assert torch.equal(before[name] == 0, after[name] == 0)
        assert not torch.equal(before[name], after[name])


def test_a_link_of_rank_0_hands_its_result_over(two: list[dict[str, Any]]) -> None:
    assert two[0]["rounded"] == two[1]["rounded"]
    assert two[0]["rounded"][1] == ["profile", "quantize"]
    assert two[0]["replayed"] == two[1]["replayed"] == two[0]["rounded"][0]


def test_a_rank_that_fails_ends_the_others_with_its_reason(two: list[dict[str, Any]]) -> None:
    reason = "ValueError: out of order"
    assert two[1]["failure"] == f"link 'fails_on_rank_1' failed: {reason}"
    assert two[0]["failure"] == f"link 'fails_on_rank_1' failed: rank 1 failed: {reason}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "killed", "first"),
    [
        ("quantize", 0, 2),
        ("quantize", 1, 2),
        ("heal blocks", 0, 1),
        ("heal full", 1, 2),
        ("heal full, divided", 0, 2),
    ],
)
def test_after_a_kill_the_same_run_goes_on(
    name: str, killed: int, first: int, two: list[dict[str, Any]], tmp_path: Path
) -> None:
    ended = start(tmp_path, name, killed)
    assert ended[killed][0] == -9
    code, error = ended[1 - killed]
    assert code == 1
    assert f"link '{name.split()[0]}' failed: rank {killed} " in error
    shutil.copytree(tmp_path / "runs", tmp_path / "single" / "runs")
    assert [code for code, _ in start(tmp_path, name, -1)] == [0, 0]
    made, counts = torch.load(tmp_path / "rank0.pt", weights_only=False)
    assert made == two[0][name]["id"]
    assert min(counts) == first
    assert [code for code, _ in start(tmp_path / "single", name, -1, size=1)] == [0]
    _, counts = torch.load(tmp_path / "single" / "rank0.pt", weights_only=False)
    assert min(counts) == first
