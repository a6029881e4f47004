"""Every architecture of transformers is handled or refused in one sentence, as the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import random_model, tiny_tokenizer, tiny_windows
from zoo.configs import ALL, MODEL_TYPES, zoo_config
from zoo.table import TABLE, read_table, table
from zoo.trial import Outcome, try_all

from birdbone.contexts.flow import Savable
from birdbone.engine import run
from birdbone.links import load, quantize, save
from birdbone.models.evaluation.proof import prove


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_architecture_is_handled_or_refused_in_one_sentence() -> None:
    outcomes = try_all(ALL)
    TABLE.write_text(table(outcomes), encoding="utf-8")
    failed = [
        f"{each.model_type}: {each.sentence}" for each in outcomes if each.verdict == "failed"
    ]
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["gemma4_text", "mixtral", "falcon_h1"])
async def test_some_go_through_save_and_prove_themselves(model_type: str, tmp_path: Path) -> None:
    """The zoo writes and opens folders with the parts of `save`; this is the whole of it."""
    random_model(zoo_config(model_type)).save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    made = await run(load(model=str(tmp_path / "source")))
    context: Savable = {**made, "heldout": tiny_windows()}
    light = await run(quantize(method="rtn", bits=4, group_size="auto"), context)
    await run(save(path=str(tmp_path / "light")), {**context, **light})
    assert (await prove(tmp_path / "light")).proven


def test_the_page_covers_the_installed_transformers() -> None:
    rows = read_table()
    assert set(MODEL_TYPES) <= rows.keys()
    assert not [name for name, row in rows.items() if row.verdict == "failed"]


def test_a_page_is_read_as_it_was_written(tmp_path: Path) -> None:
    outcomes = [
        Outcome("llama", "LlamaForCausalLM", "handled", remarks="100% in 4 bits"),
        Outcome("blt", "", "refused", "has a | in it"),
    ]
    (tmp_path / "page.md").write_text(table(outcomes))
    assert list(read_table(tmp_path / "page.md").values()) == sorted(
        outcomes, key=lambda each: ALL.index(each.model_type)
    )


def test_one_architecture_of_each_kind() -> None:
    """A fast look at the whole way: handled, dense only, and refused."""
    found = {each.model_type: each for each in try_all(["llama", "gpt2", "blt"])}
    assert found["llama"].verdict == "handled"
    assert found["llama"].remarks.startswith("100%")
    assert found["gpt2"].verdict == "dense only"
    assert "packed format" in found["gpt2"].sentence
    assert found["blt"].verdict == "refused"
    assert "no stack of decoder blocks" in found["blt"].sentence
