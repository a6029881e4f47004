"""Scripts are answered in a fresh interpreter, alone, within their memory, and errors come back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from birdbone.formats import measure_gguf
from birdbone.models.evaluation import measure_folder, run_folder, standalone

DOUBLES = "answer = lambda request: {'twice': 2 * request['value']}"


def script(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(code)
    return path


def requested(tmp_path: Path, name: str = "one", **more: Any) -> Path:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"result": str(tmp_path / f"{name}_result.json"), **more}))
    return path


def result(request: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.with_name(f"{request.stem}_result.json").read_text())
    return found


def run(code: Path, *requests: Path) -> subprocess.CompletedProcess[str]:
    """The launcher as `run_alone` starts it."""
    return subprocess.run(
        [sys.executable, "-I", standalone.__file__, str(code), *map(str, requests)],
        capture_output=True,
        text=True,
        check=True,
    )


def test_each_request_has_its_result(tmp_path: Path) -> None:
    requests = [requested(tmp_path, name, value=value) for name, value in (("a", 3), ("b", "x"))]
    run(script(tmp_path, DOUBLES), *requests)
    assert [result(each) for each in requests] == [{"twice": 6}, {"twice": "xx"}]


def test_an_error_is_the_result_and_the_next_request_is_answered(tmp_path: Path) -> None:
    bad, good = requested(tmp_path, "bad"), requested(tmp_path, "good", value=1)
    run(script(tmp_path, DOUBLES), bad, good)
    assert result(bad) == {"error": "KeyError: 'value'"}
    assert result(good) == {"twice": 2}


def test_a_script_that_imports_birdbone_proves_nothing(tmp_path: Path) -> None:
    """Even where it does so while it answers."""
    code = "def answer(request):\n    import sys\n    sys.modules['birdbone'] = sys\n    return {}"
    request = requested(tmp_path)
    run(script(tmp_path, code), request)
    assert "birdbone is loaded here, so this process proves nothing" in result(request)["error"]


@pytest.mark.parametrize("program", [measure_folder, run_folder, measure_gguf])
def test_the_programs_refuse_where_birdbone_is_loaded(program: Any, tmp_path: Path) -> None:
    request = requested(tmp_path)
    assert "birdbone" in sys.modules
    standalone.main(program.__file__, [str(request)])
    assert result(request) == {
        "error": "RuntimeError: birdbone is loaded here, so this process proves nothing"
    }


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_DATA")
def test_memory_beyond_the_limit_is_an_error(tmp_path: Path) -> None:
    """The limit counts from what the imports of the script hold, here 64 MB."""
    code = "held = bytearray(64 << 20)\ndef answer(request):\n"
    code += "    return {'bytes': len(bytearray(request['size']))}"
    limit = 32 << 20
    small = requested(tmp_path, "small", size=limit // 2, memory_limit=limit)
    large = requested(tmp_path, "large", size=limit * 2, memory_limit=limit)
    run(script(tmp_path, code), small, large)
    assert result(small) == {"bytes": limit // 2}
    assert result(large) == {"error": "MemoryError: "}


def test_warnings_are_not_written(tmp_path: Path) -> None:
    code = "import warnings\ndef answer(request):\n    warnings.warn('!')\n    return {}"
    request = requested(tmp_path)
    done = run(script(tmp_path, code), request)
    assert result(request) == {}
    assert done.stderr == ""
