from __future__ import annotations

from pathlib import Path

import pytest

from birdbone.middleware.redaction import HIDDEN, error_text, redacted, redacted_text


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "key",
        "token",
        "hub_token",
        "hfToken",
        "HF_TOKEN",
        "password",
        "clientSecret",
        "wandb_api_key",
        "aws-secret-access",
        "credentials",
        "Authorization",
        "auth",
        "db.passwd",
    ],
)
def test_names_of_secrets_hide_their_values(name):
    assert redacted({name: "open-sesame"}) == {name: HIDDEN}
    assert redacted({name: {"inner": ["open-sesame"]}}) == {name: HIDDEN}


@pytest.mark.parametrize("name", ["password", "api_key", "token", "secret"])
def test_a_number_may_be_a_secret_too(name):
    assert redacted({name: 1234}) == {name: HIDDEN}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_tokens", 4096),
        ("keys", 2),
        ("author", "me"),
        ("monkey", "ape"),
        ("keyed", "yes"),
        ("tokenizer", "bpe"),
        ("token", None),
        ("use_token", True),
        ("bits", 4),
        ("rate", 0.5),
    ],
)
def test_other_settings_pass(name, value):
    assert redacted({name: value}) == {name: value}


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnop",
        "sk-abcdefghijklmnop",
        "ghp_abcdefghijklmnop",
        "AKIAABCDEFGHIJKLMNOP",
        "github_pat_11ABCDEFGH",
        "wandb_v1_abcdefghij",
    ],
)
def test_credentials_are_known_by_their_shape(secret):
    assert redacted({"model": [f"see {secret}"]}) == {"model": [f"see {HIDDEN}"]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:sesame@host/x", f"https://{HIDDEN}@host/x"),
        ("Authorization: Bearer abc.def-ghi", f"Authorization: Bearer {HIDDEN}"),
        ("get /x?token=abc&n=1", f"get /x?token={HIDDEN}&n=1"),
        ("https://host:80/x@y and risk-free words", "https://host:80/x@y and risk-free words"),
        ("sparsity=0.5, key: value", "sparsity=0.5, key: value"),
    ],
)
def test_texts_lose_only_their_secrets(text, shown):
    assert redacted_text(text) == shown


def test_other_types_become_plain_ones():
    found = redacted({"path": Path("light"), "pair": (1, Path("x")), "inner": {1: None}})
    assert found == {"path": "light", "pair": [1, "x"], "inner": {"1": None}}


def test_an_error_without_words_is_named_by_its_type():
    assert error_text(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert error_text(ValueError("token=abc")) == f"token={HIDDEN}"
