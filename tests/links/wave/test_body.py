"""The body of waves: what is refused when composed, and how a wave's settings get into it."""

from __future__ import annotations

from typing import Any

import pytest

from birdbone.chains import waves
from birdbone.engine import Chain, chains_of
from birdbone.errors import ChainError, SettingError
from birdbone.links import calibrate, heal, prune, quantize, save, validate
from birdbone.links.wave.body import bound


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda: Chain(prune(), heal()), "has no validate link, so no wave is evaluated"),
        (lambda: Chain(heal(), validate()), "has no prune link, so nothing is pruned"),
        (lambda: Chain(), "has no prune link"),
        (lambda: Chain(prune(), validate(), heal()), "heal changes the model after validate"),
        (lambda: Chain(prune(), quantize(), validate()), "contains quantize; put it after waves"),
        (lambda: Chain(prune(), validate(), save(path="o")), "contains save; put it after waves"),
        (
            lambda: Chain(calibrate(), prune(), validate()),
            "contains calibrate; put it before waves",
        ),
        (
            lambda: Chain(waves(body=Chain(prune(), validate())), validate()),
            "contains waves; put it beside waves",
        ),
        (lambda: Chain(prune(sparsity=0.3), validate()), r"prune\(sparsity=0.3\) in the body"),
        (lambda: Chain(prune(regrow=0.3), validate()), r"prune\(regrow=0.3\) .* regrow of waves"),
        (lambda: Chain(prune(pattern="2:4"), validate()), r"prune\(pattern='2:4'\) in the body"),
        (
            lambda: Chain(prune(pattern="neurons"), prune(), validate()),
            "prunes by neurons, unstructured: .* overwrites the zeros of masks",
        ),
    ],
)
def test_a_body_that_waves_cannot_drive_is_refused(body: Any, message: str) -> None:
    with pytest.raises(ChainError, match=message):
        waves(body=body())


def test_what_is_no_chain_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"waves\(body=.*instance of Chain"):
        waves(body="prune")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"waves\(body\): Field required"):
        waves()  # type: ignore[call-arg]


def test_links_within_chains_within_the_body_count() -> None:
    body = Chain(Chain(prune(), heal(epochs=2)), Chain(validate()))
    fresh = bound(chains_of(waves(body=body))["body"], sparsities=[0.25], healing=4)
    inner = fresh.links[0]
    assert inner.links[0].settings.sparsity == 0.25
    assert inner.links[1].settings.epochs == 8
    assert fresh.links[1].links[0] is body.links[1].links[0]
    assert body.links[0].links[0].settings.sparsity is None
