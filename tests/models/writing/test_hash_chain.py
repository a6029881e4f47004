"""The hash chain of a record."""

import json

from recorded import step

from birdbone.models.writing.hash_chain import hash_chain

STEPS = [step("load"), step("quantize", 12.5, metrics={"error": 1e-3})]
FILES = {"model.safetensors": {"bytes": 4, "sha256": "ab"}}


def test_it_has_a_link_for_the_original_each_step_and_the_files() -> None:
    assert len(hash_chain("id", STEPS, FILES)) == 1 + len(STEPS) + 1


def test_reading_it_back_from_json_changes_nothing() -> None:
    again = json.loads(json.dumps({"steps": STEPS, "files": FILES}))
    assert hash_chain("id", again["steps"], again["files"]) == hash_chain("id", STEPS, FILES)


def test_a_change_shows_in_its_link_and_all_after_it() -> None:
    whole = hash_chain("id", STEPS, FILES)
    other = hash_chain("id", [STEPS[0], step("quantize", 12.6)], FILES)
    assert other[:2] == whole[:2]
    assert not set(other[2:]) & set(whole[2:])


def test_another_original_changes_every_link() -> None:
    assert not set(hash_chain("id", STEPS, FILES)) & set(hash_chain("other", STEPS, FILES))


def test_the_order_of_keys_does_not_matter() -> None:
    turned = [dict(reversed(each.items())) for each in STEPS]
    assert hash_chain("id", turned, FILES) == hash_chain("id", STEPS, FILES)
