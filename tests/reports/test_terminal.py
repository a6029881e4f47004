import logging
import warnings
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from birdbone.reports import terminal
from birdbone.reports.terminal import quiet_libraries, say, warnings_as_notes

LONG = "word " * 60 + "end"


def test_messages_go_to_stderr_and_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("error", LONG)
    captured = capsys.readouterr()
    assert captured.err == f"error: {LONG}\n"
    assert captured.out == ""


def test_text_with_brackets_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say("error", "settings [bold] and model.layers[0]")
    assert "[bold] and model.layers[0]" in capsys.readouterr().err


def test_a_warning_becomes_one_note(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_as_notes():
        warnings.warn("the text has only\n  3 windows", stacklevel=1)
    assert capsys.readouterr().err == "note: the text has only 3 windows\n"


def test_technical_warnings_and_those_of_other_libraries_are_dropped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = Path(pytest.__file__)
    with warnings_as_notes():
        warnings.warn("soon gone", FutureWarning, stacklevel=1)
        warnings.warn_explicit("theirs", UserWarning, str(elsewhere), 1)
    assert capsys.readouterr().err == ""


def test_our_own_files_are_ours_even_where_libraries_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = Path(terminal.__file__).resolve()
    monkeypatch.setattr(terminal, "_INSTALLED", (ours.parents[2],))
    assert not terminal._is_of_another_library(str(ours))
    assert terminal._is_of_another_library(str(ours.parents[2] / "other" / "module.py"))


def test_libraries_are_quiet_inside_and_as_they_were_after() -> None:
    def state() -> tuple[int, int, bool, bool]:
        return (
            logging.getLogger("peft").level,
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
            are_progress_bars_disabled(),
        )

    before = state()
    with quiet_libraries():
        assert state() == (logging.ERROR, logging.ERROR, False, True)
    assert state() == before
