import importlib
import logging
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from pretend_device import NAME, pretended
from rich.console import Console

from birdbone.reports import doctor
from birdbone.reports.doctor import Finding, doctor_report, examine, extras, requirements


def by_name(checks: list[Finding]) -> dict[str, Finding]:
    return {check.name: check for check in checks}


def lacking(*names: str) -> Callable[[str], ModuleType]:
    def import_module(name: str) -> ModuleType:
        if name in names:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return importlib.import_module(name)

    return import_module


def test_here_nothing_needed_is_broken() -> None:
    checks = examine()
    assert [check for check in checks if check.breaks] == []
    assert {"torch", "cpu", "bitsandbytes works", "disk", "hub cache"} <= by_name(checks).keys()


def test_a_source_tree_that_is_not_installed_says_what_it_requires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    names = [each.split(">=")[0] for each in requirements()]
    assert "torch" in names
    assert "pytest" not in names


def test_what_only_an_extra_requires_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["torch<3,>=2.13", 'pytest>=9.2; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda name: listed)
    assert requirements() == ["torch<3,>=2.13"]


def test_extras_are_listed_and_never_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["torch<3,>=2.13", "nowhere>=1; extra == 'far'", 'rich>=1; extra == "near"']
    monkeypatch.setattr(metadata, "requires", lambda name: [*listed, "pytest; extra == 'dev'"])
    assert extras() == {"far": ["nowhere>=1"], "near": ["rich>=1"]}
    checks = list(doctor._extras())
    assert [(each.name, each.state, each.needed) for each in checks] == [
        ("nowhere [far]", "missing", False),
        ("rich [near]", "ok", False),
    ]
    assert checks[0].fix == "pip install 'birdbone[far]'"


def test_bitsandbytes_logs_nothing_while_it_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    def noisy(module: object) -> str:
        logging.getLogger("bitsandbytes").warning("kernels are missing")
        return "fine"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_quantize_four_bits", noisy)
        assert [each.state for each in doctor._bitsandbytes()] == ["ok"]
    assert caplog.records == []


def test_a_missing_dependency_is_needed_and_its_fix_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "safetensors":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    checks = by_name(list(doctor._versions()))
    assert checks["safetensors"].state == "missing"
    assert checks["safetensors"].breaks
    assert checks["torch"].state == "wrong"
    assert checks["torch"].found.startswith("1.0, not ")
    assert checks["torch"].fix.startswith('pip install "torch')
    assert checks["rich"].state == "ok"


def test_a_torch_that_does_not_import_is_a_line_of_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "import_module", lacking("torch"))
    checks = by_name(examine())
    assert checks["torch works"].state == "missing"
    assert checks["torch works"].breaks
    assert checks["accelerator"].state == "wrong"


def test_every_device_has_a_line() -> None:
    with pretended(limit=5_000_000_000):
        assert by_name(examine())[f"{NAME}:0"].found == f"{NAME}, 5.0 GB of 5.0 GB free"
    if not torch.accelerator.is_available():
        assert by_name(examine())["accelerator"].found == "none; the CPU is used"


def test_bitsandbytes_that_computes_wrongly_is_wrong_but_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    functional = SimpleNamespace(
        quantize_4bit=lambda weight, quant_type: (weight, None),
        dequantize_4bit=lambda codes, state: codes + 1,
    )
    with pytest.raises(RuntimeError, match=r"4-bit values are off by 1\.0"):
        doctor._quantize_four_bits(SimpleNamespace(functional=functional))
    monkeypatch.setattr(doctor, "import_module", lacking("bitsandbytes"))
    check = doctor._imported("bitsandbytes", doctor._quantize_four_bits, needed=False)
    assert (check.state, check.breaks) == ("missing", False)


def test_a_cache_that_cannot_be_written_is_said_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    constants = SimpleNamespace(HF_HUB_CACHE=str(blocked))
    monkeypatch.setattr(doctor, "import_module", lambda name: constants)
    check = doctor._hub_cache()
    assert check.state == "wrong"
    assert "HF_HOME" in check.fix


def test_little_room_is_wrong() -> None:
    assert doctor._room("disk", 1 << 30, "free some") == Finding(
        "disk", "wrong", "1.1 GB free", "free some", needed=False
    )
    assert doctor._room("disk", 3 << 30, "free some").state == "ok"


def test_the_report_has_a_line_for_each_check_and_the_fix() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(
            doctor_report([Finding("a", "ok", "fine"), Finding("b", "missing", "gone", "get b")])
        )
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert lines == ["ok a fine", "missing b gone; get b"]
