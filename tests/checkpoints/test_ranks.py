"""How work is divided over ranks, with three threads in place of ranks, and with one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from birdbone.checkpoints import ranks
from birdbone.errors import BirdboneError, DataError, SettingError


def test_windows_are_divided_in_order(on_three: Any) -> None:
    windows = torch.arange(7).unsqueeze(1)
    parts = on_three(lambda rank: ranks.share(windows))
    assert torch.equal(torch.cat(parts), windows)
    assert [len(each) for each in parts] == [2, 2, 3]


def test_fewer_windows_than_ranks(on_three: Any) -> None:
    with pytest.raises(DataError, match="3 ranks cannot divide windows that are 2 in all"):
        on_three(lambda rank: ranks.share(torch.zeros(2, 1)))


def test_sums_are_added_in_the_order_of_ranks(on_three: Any) -> None:
    parts = torch.tensor([1e8, -1e8, 1.0])  # -1e8 + 1 is -1e8 in float32
    assert on_three(lambda rank: float(ranks.total(parts[rank]))) == [1.0, 1.0, 1.0]


def test_rows_are_joined(on_three: Any) -> None:
    found = on_three(lambda rank: ranks.joined(torch.full((rank, 2), rank)))
    assert [each[:, 0].tolist() for each in found] == [[1, 2, 2]] * 3


def test_tensors_are_collected_on_rank_0(on_three: Any) -> None:
    found = on_three(lambda rank: ranks.collected([torch.full((n + 1,), rank) for n in range(2)]))
    assert [each.tolist() for each in found[0]] == [[0], [0, 0], [1], [1, 1], [2], [2, 2]]
    assert found[1:] == [[], []]


def test_values_are_exchanged(on_three: Any) -> None:
    assert (
        on_three(lambda rank: ranks.exchanged({"rank": rank}))
        == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3
    )


def test_work_is_divided_by_its_cost(on_three: Any) -> None:
    did: dict[int, list[int]] = {0: [], 1: [], 2: []}

    def both(rank: int) -> list[int]:
        return ranks.divided(
            [1.0, 5.0, 1.0, 2.0, 2.0], lambda place: did[rank].append(place) or place
        )

    assert on_three(both) == [[0, 1, 2, 3, 4]] * 3
    assert did == {0: [1], 1: [0, 3], 2: [2, 4]}


def test_one_process_gets_back_what_it_gave() -> None:
    tensor = torch.zeros(2, 1)
    assert ranks.total(tensor) is tensor
    assert ranks.joined(tensor) is tensor
    assert ranks.exchanged(tensor) == [tensor]
    assert ranks.from_first(lambda: tensor) is tensor
    assert ranks.share(tensor).data_ptr() == tensor.data_ptr()
    assert ranks.divided([1.0, 1.0], str) == ["0", "1"]


def test_what_cannot_be_sent_becomes_its_text() -> None:
    error = ValueError("out of order")
    assert ranks.sendable(error) is error
    found = ranks.sendable(ValueError(lambda: None))
    assert isinstance(found, BirdboneError)
    assert "ValueError: <function" in str(found)


def test_devices_by_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "local_rank", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert ranks.device_of_rank(torch.device("cuda")) == torch.device("cuda:1")
    assert ranks.device_of_rank(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(SettingError, match="each rank needs its own; give 'cuda'"):
        ranks.device_of_rank(torch.device("cuda:0"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(SettingError, match="this machine has 1 devices of type cuda"):
        ranks.device_of_rank(torch.device("cuda"))
