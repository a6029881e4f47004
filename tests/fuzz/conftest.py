"""How many hostile inputs a session tried, said at its end."""

from __future__ import annotations

from typing import Any

import pytest
from fuzz.sandbox import Sandbox, attempts


@pytest.fixture(scope="module")
def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """One for a file of tests, its inputs counted under the file's name."""
    kind = request.module.__name__.rpartition("test_hostile_")[2].replace("_", " ")
    return Sandbox(tmp_path_factory.mktemp("hostile"), kind)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if attempts:
        each = ", ".join(f"{kind} {count:,}" for kind, count in sorted(attempts.items()))
        terminalreporter.write_line(f"{sum(attempts.values()):,} hostile inputs: {each}")
