"""Progress bars are off inside the context and as they were after it, in every order of ending."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compressed_tensors.compressors.model_compressors import model_compressor
from compressed_tensors.quantization.lifecycle import apply
from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging

from birdbone.models.blocks.progress_bars import quietly

MODULES = (modeling_gguf_pytorch_utils, model_compressor, apply)


def bars() -> list[object]:
    """What the modules without a setting draw their bars with."""
    return [module.tqdm for module in MODULES]


@pytest.fixture
def shown() -> Iterator[None]:
    """Progress bars are on, and as before after the test."""
    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    yield
    if not before:
        logging.disable_progress_bar()


@pytest.mark.usefixtures("shown")
def test_bars_are_off_inside() -> None:
    before = bars()
    with quietly():
        assert not logging.is_progress_bar_enabled()
        assert bars() == [logging.tqdm] * 3
    assert logging.is_progress_bar_enabled()
    assert bars() == before


@pytest.mark.usefixtures("shown")
def test_an_error_restores_them() -> None:
    before = bars()
    with pytest.raises(KeyError, match="lost"), quietly():
        raise KeyError("lost")
    assert logging.is_progress_bar_enabled()
    assert bars() == before


@pytest.mark.usefixtures("shown")
def test_bars_a_user_switched_off_stay_off() -> None:
    logging.disable_progress_bar()
    with quietly():
        assert not logging.is_progress_bar_enabled()
    assert not logging.is_progress_bar_enabled()
    logging.enable_progress_bar()


@pytest.mark.usefixtures("shown")
def test_nested_contexts_end_with_the_outer() -> None:
    before = bars()
    with quietly():
        with quietly():
            pass
        assert not logging.is_progress_bar_enabled()
        assert bars() == [logging.tqdm] * 3
    assert bars() == before


@pytest.mark.usefixtures("shown")
def test_overlapping_contexts_restore_what_was_there_first() -> None:
    """Two links in threads of their own: the one that began first ends first."""
    before = bars()
    first, second = quietly(), quietly()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not logging.is_progress_bar_enabled()
    assert bars() == [logging.tqdm] * 3
    second.__exit__(None, None, None)
    assert logging.is_progress_bar_enabled()
    assert bars() == before
