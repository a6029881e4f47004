"""What is saved is proven, published whole or not at all, and says where it comes from."""

import asyncio
import hashlib
import json
import math
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_verdicts import verdict_on
from transformers import AutoModelForCausalLM

from birdbone.checkpoints import BitsAndBytes, Checkpoint, Quantized
from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, ProofError, ResourceError, SettingError
from birdbone.links import save
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.codecs.bitsandbytes import int8_values, nf4_values
from birdbone.models.evaluation import fresh_process
from birdbone.models.evaluation.proof import read_papers
from birdbone.models.writing.publishing import check_disk, check_target, publish
from birdbone.reports.html_report.page import report_page
from birdbone.reports.html_report.records import model_record

TAIL = {"median_kl", "kl_99", "kl_999", "rms_dp"}
KEYS = {
    "weight_bytes",
    "parameters",
    "nonzero",
    "perplexity",
    "perplexity_error",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "peak_bytes",
}
"""What a folder is measured for by itself."""
DOWN = "model.layers.1.mlp.down_proj.weight"


def halved(checkpoint: Checkpoint) -> Checkpoint:
    """Every other column of one matrix zeroed."""
    weight = checkpoint.tensors[DOWN].clone()
    weight[:, ::2] = 0.0
    return checkpoint.evolve({DOWN: weight})


def context(light: Checkpoint | None = None, **more: Any) -> dict[str, Any]:
    """A dense tiny model, a light one, held-out windows."""
    dense = tiny_checkpoint()
    made = light if light is not None else halved(dense)
    return {"checkpoint": made, "dense": dense, "heldout": tiny_windows(3), **more}


def in_memory(checkpoint: Checkpoint) -> float:
    """Perplexity on the held-out windows, computed here."""
    tokens = tiny_windows(3).tokens
    with torch.no_grad():
        logits = Skeleton(checkpoint).fill().eval()(tokens, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    return math.exp(float(loss))


def judged(ctx: Mapping[str, Any], perplexity: float) -> dict[str, Any]:
    """The context as validate would leave it, with that perplexity in the verdict."""
    verdict = verdict_on(ctx["heldout"], perplexity, ctx["checkpoint"].id)
    step = Step("validate", {}, Cost(1.0, 1, "process"), checkpoint=ctx["checkpoint"].id)
    return {**ctx, "verdict": verdict, "history": (step,)}


def left_in(folder: Path) -> list[str]:
    """Names of everything in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


@dataclass(frozen=True)
class Shared:
    """A model saved once, with everything measured and proven, and what it was saved from."""

    folder: Path
    ctx: Mapping[str, Any]
    before: str
    out: Mapping[str, Any]


SETTINGS: Any = {"max_shard_gb": 4e-5, "proof_tokens": 20}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Measured in interpreters of its own; other tests fork them (`preloaded`)."""
    folder = tmp_path_factory.mktemp("shared") / "light"
    settings = {"model": "/home/somebody/models/heavy", "windows": 64, "out": ["out/here"]}
    first = Step("load", settings, Cost(1.5, 7, "process"), {"parameters": 5}, "abc")
    ctx = context()
    ctx = judged(ctx, in_memory(ctx["checkpoint"]))
    ctx = {**ctx, "history": (first, *ctx["history"])}
    before = ctx["checkpoint"].id
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_process, "interpreter", lambda: (sys.executable, "-I"))
        out = asyncio.run(run(save(path=str(folder), **SETTINGS), ctx))
    return Shared(folder, ctx, before, out)


def test_saved_figures_are_those_of_the_folder(shared: Shared) -> None:
    ctx, saved = shared.ctx, shared.out["saved"]
    light, dense = saved.figures["light"], saved.figures["dense"]
    shards = list(shared.folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert saved.path == shared.folder
    assert saved.weight_bytes == light["weight_bytes"] == sum(s.stat().st_size for s in shards)
    assert light.keys() == KEYS | {*TAIL, "mean_kl", "agreement", "rise", "rise_error"}
    assert dense.keys() == KEYS
    assert light["perplexity"] == pytest.approx(ctx["verdict"].heldout.light.value, rel=1e-5)
    assert dense["parameters"] == light["parameters"] == ctx["dense"].num_parameters
    assert dense["nonzero"] - light["nonzero"] == 32 * 32
    assert light["mean_kl"] > 0
    assert light["peak_bytes"] != dense["peak_bytes"]
    assert 0 <= light["agreement"] <= 1
    assert saved.measured_on["text"] == "tiny words"
    assert saved.measured_on["windows"] == "3 of 16 tokens"
    assert saved.measured_on["dtype"] == "float32"
    assert left_in(shared.folder.parent) == ["light"]
    assert shared.out["history"][-1].metrics["perplexity"] == light["perplexity"]


def test_the_page_beside_the_model_is_made_of_its_record(shared: Shared) -> None:
    record = json.loads((shared.folder / "birdbone.json").read_text())
    page = report_page([model_record("light", record)])
    assert (shared.folder / "report.html").read_text() == page
    assert "report.html" not in record["files"]
    assert "<h2>Generated text</h2>" in page


@pytest.mark.parametrize("content", [None, "<p>Another page.</p>"])
def test_the_page_may_be_written_again_or_deleted(
    shared: Shared, tmp_path: Path, content: str | None
) -> None:
    folder = tmp_path / "light"
    shutil.copytree(shared.folder, folder)
    (folder / "report.html").unlink()
    if content is not None:
        (folder / "report.html").write_text(content)
    assert all(check.holds for check in read_papers(folder).checks)
    (folder / "bench.json").write_text("{}")  # as birdbone bench --record does
    assert all(check.holds for check in read_papers(folder).checks)
    (folder / "other.html").write_text("<p>Not of birdbone.</p>")
    assert not all(check.holds for check in read_papers(folder).checks)


def test_both_models_continue_the_same_prompts_in_the_record(shared: Shared) -> None:
    record = json.loads((shared.folder / "birdbone.json").read_text())
    assert [each["origin"] for each in record["samples"]] == ["heldout"] * 3
    assert all(each["dense"] and each["light"] for each in record["samples"])
    assert any(each["dense"] != each["light"] for each in record["samples"])
    worst, *_ = record["worst_windows"]["heldout"]
    assert worst["measured_on"] == "saved model"
    assert worst["mean_kl"] > 0


def test_provenance_says_what_was_done_and_no_path_of_this_machine(shared: Shared) -> None:
    ctx, folder = shared.ctx, shared.folder
    text = (folder / "birdbone.json").read_text()
    record = json.loads(text)
    assert record["steps"][0]["settings"] == {
        "model": "heavy",
        "windows": 64,
        "out": ["out/here"],
    }
    assert record["steps"][0]["metrics"] == {"parameters": 5}
    assert record["checkpoint"] == ctx["checkpoint"].id
    assert record["dense"] == ctx["dense"].id
    assert record["source"] == "tiny/llama"
    assert record["texts"]["heldout"]["digest"] == ctx["heldout"].digest
    assert record["versions"].keys() >= {"torch", "transformers", "modulink-py"}
    assert record["figures"]["light"]["perplexity"] > 1
    assert "refused" not in record
    held = {path.name for path in folder.iterdir()} - {"birdbone.json", "report.html"}
    assert record["files"].keys() == held
    for name, found in record["files"].items():
        data = (folder / name).read_bytes()
        assert found == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for written in (text, (folder / "README.md").read_text()):
        assert "somebody" not in written
        assert str(folder.parent) not in written


def test_the_input_is_left_as_it_was(shared: Shared) -> None:
    assert replace(shared.ctx["checkpoint"]).id == shared.before
    model = AutoModelForCausalLM.from_pretrained(shared.folder)
    assert torch.equal(model.state_dict()[DOWN], shared.ctx["checkpoint"].tensors[DOWN])


def test_the_record_holds_no_more_text_than_asked(shared: Shared) -> None:
    kept = json.loads((shared.folder / "proof.json").read_text())
    tokens = [window["tokens"] for window in kept["windows"]]
    assert tokens == shared.ctx["heldout"].tokens[:1].tolist()  # 20 asked for, windows of 16


async def test_our_own_folder_is_replaced_by_the_same_bytes_every_time(
    shared: Shared, tmp_path: Path
) -> None:
    target = tmp_path / "light"
    target.mkdir()
    (target / "birdbone.json").write_text('{"birdbone": "0"}')
    (target / "stale.txt").write_text("old")
    await run(save(path=str(target), compare=False, **SETTINGS), shared.ctx)
    assert not (target / "stale.txt").exists()
    assert left_in(tmp_path) == ["light"]
    assert len({path.stat().st_mode for path in target.iterdir()}) == 1
    for name in sorted(path.name for path in shared.folder.glob("*.safetensors")):
        assert (target / name).read_bytes() == (shared.folder / name).read_bytes()


async def test_what_is_refused_is_kept_aside_with_the_reason_and_replaces_nothing(
    shared: Shared, tmp_path: Path
) -> None:
    shutil.copytree(shared.folder, tmp_path / "light")
    earlier = tmp_path / "light.refused"  # gives way
    earlier.mkdir()
    (earlier / "birdbone.json").write_text('{"birdbone": "0"}')
    wrong = judged(shared.ctx, 21.0)
    message = r"perplexity .* in a fresh process.*nothing was.* kept for inspection in .*refused"
    with pytest.raises(LinkError, match=message) as caught:
        await run(save(path=str(tmp_path / "light"), compare=False, **SETTINGS), wrong)
    assert isinstance(caught.value.__cause__, ProofError)
    assert left_in(tmp_path) == ["light", "light.refused"]
    record = json.loads((earlier / "birdbone.json").read_text())
    assert "in a fresh process" in record["refused"]
    for path in shared.folder.iterdir():
        assert (tmp_path / "light" / path.name).read_bytes() == path.read_bytes()
    for path in shared.folder.glob("*.safetensors"):
        assert (earlier / path.name).read_bytes() == path.read_bytes()


async def test_a_folder_that_does_not_open_is_not_published(tmp_path: Path) -> None:
    dense = tiny_checkpoint()
    lying = replace(dense, config={**dense.config, "intermediate_size": 48})
    ctx = {**context(lying), "dense": dense}
    with pytest.raises(
        LinkError, match=r"cannot open and run .*tensors of other shapes.*nothing was"
    ):
        await run(save(path=str(tmp_path / "light"), compare=False), ctx)
    assert left_in(tmp_path) == ["light.refused"]


async def test_a_proof_that_fails_publishes_nothing(tmp_path: Path) -> None:
    # The kernels of bitsandbytes round differently from memory, and more than was allowed.
    ctx = context(bitsandbytes("nf4", nf4_values))
    del ctx["heldout"]
    with pytest.raises(LinkError, match=r"is not proven: logits: .*; nothing was published"):
        await run(save(path=str(tmp_path / "light"), compare=False, tolerance=1e-12), ctx)
    assert left_in(tmp_path) == ["light.refused"]


async def test_without_text_there_is_speed_and_no_perplexity(tmp_path: Path) -> None:
    ctx = context()
    del ctx["heldout"]
    out = await run(save(path=str(tmp_path / "light"), compare=False), ctx)
    light = out["saved"].figures["light"]
    assert "perplexity" not in light
    assert light["decode_tokens_per_second"] > 0
    assert light["peak_bytes"] > light["weight_bytes"]
    assert "text" not in out["saved"].measured_on


def bitsandbytes(kind: Any, values: Any) -> Checkpoint:
    """A tiny model whose linears are quantised as bitsandbytes stores them."""
    # On CPUs with AVX512-BF16 bitsandbytes cannot run 4-bit rows shorter than a block of 64.
    dense = tiny_checkpoint(hidden_size=64)
    names = [n for n in dense.refs if "proj" in n]
    return dense.evolve(
        {n: BitsAndBytes(dense.refs[n], values(dense.tensors[n]), kind=kind) for n in names}
    )


@pytest.mark.parametrize(("kind", "values"), [("nf4", nf4_values), ("llm.int8", int8_values)])
async def test_bitsandbytes_is_proven_too(kind: Any, values: Any, tmp_path: Path) -> None:
    light, dense = bitsandbytes(kind, values), tiny_checkpoint(hidden_size=64)
    ctx = judged(context(light, dense=dense), in_memory(light))
    out = await run(save(path=str(tmp_path / "light"), compare=False), ctx)
    figures = out["saved"].figures["light"]
    assert figures["parameters"] == dense.num_parameters
    assert figures["nonzero"] == pytest.approx(light.count_nonzero(), rel=0.01)
    assert figures["weight_bytes"] < dense.num_bytes
    assert "`bitsandbytes` is installed" in (tmp_path / "light" / "README.md").read_text()


async def test_an_adapter_beside_the_weights_is_on_record_and_proven(tmp_path: Path) -> None:
    names = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    dense = tiny_checkpoint()
    ctx = context(replace(dense, files={**dense.files, **dict.fromkeys(names, b"{}")}))
    after = await run(save(path=str(tmp_path / "light"), compare=False, proof_tokens=0), ctx)
    folder = after["saved"].path
    assert names < set(json.loads((folder / "birdbone.json").read_text())["files"])
    assert all(check.holds for check in read_papers(folder).checks)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"[]")
    (failed,) = (check for check in read_papers(folder).checks if not check.holds)
    assert failed.words == "adapter/adapter_model.safetensors has another checksum than recorded"
    # None of the text is in the folder where none was allowed.
    record = json.loads((folder / "birdbone.json").read_text())
    assert record["samples"] == []
    assert "compare=False" in record["samples_missing"]
    kept = json.loads((folder / "proof.json").read_text())
    assert kept["text"] == "ids drawn at random"
    assert len(kept["windows"]) == 1
    assert kept["windows"][0]["tokens"][:16] not in ctx["heldout"].tokens.tolist()


async def test_packed_codes_are_counted_and_replace_a_folder_of_somebody_else_only_by_force(
    tmp_path: Path,
) -> None:
    codes = torch.arange(32 * 64).reshape(32, 64).remainder(16).sub(8).to(torch.int8)
    light = tiny_checkpoint().evolve({DOWN: Quantized(codes, torch.full((32, 4), 0.01), bits=4)})
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter.txt").write_text("years of work")
    with pytest.raises(LinkError, match=r"exists and was not made by birdbone.*force=True"):
        await run(save(path=str(target)), context(light))
    assert (target / "chapter.txt").read_text() == "years of work"
    out = await run(save(path=str(target), force=True, compare=False), context(light))
    assert not (target / "chapter.txt").exists()
    figures = out["saved"].figures["light"]
    assert figures["parameters"] == light.num_parameters
    assert figures["nonzero"] == light.count_nonzero() < light.num_parameters


@pytest.mark.parametrize("stop_at", ["tensors written", "saved folder opened"])
async def test_cancelling_leaves_nothing_behind_and_the_old_folder_whole(
    stop_at: str, tmp_path: Path
) -> None:
    target = tmp_path / "light"
    target.mkdir()
    (target / "birdbone.json").write_text('{"birdbone": "0"}')
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    class Watch:
        def progress(self, link: Any, progress: Any, mwctx: Any) -> None:
            if progress.label.startswith(stop_at):
                loop.call_soon_threadsafe(reached.set)

    chain = Chain(save(path=str(target), compare=False))
    chain.use(Watch())
    task = asyncio.create_task(run(chain, context()))
    await asyncio.wait_for(reached.wait(), 120)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(tmp_path) == ["light"]
    assert left_in(target) == ["birdbone.json"]


async def test_a_failing_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    target = tmp_path / "light"
    target.mkdir()
    (target / "kept.txt").write_text("old")
    real = os.rename

    def fail(source: Path, aim: Path) -> None:
        if source == tmp_path / "new":
            raise OSError("no")
        real(source, aim)

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(OSError, match="no"):
        publish(tmp_path / "new", target)
    assert (target / "kept.txt").read_text() == "old"


def test_a_target_is_judged_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert check_target(str(tmp_path / "empty")) == tmp_path / "empty"
    assert check_target(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    with pytest.raises(SettingError, match="is a file; give a folder"):
        check_target(tmp_path / "file")


@pytest.mark.parametrize("content", ["[]", "not json", '{"other": 1}'])
def test_only_our_own_provenance_makes_a_folder_ours(content: str, tmp_path: Path) -> None:
    (tmp_path / "birdbone.json").write_text(content)
    with pytest.raises(SettingError, match="was not made by birdbone"):
        check_target(tmp_path)
    (tmp_path / "birdbone.json").write_text('{"birdbone": "1.0"}')
    assert check_target(tmp_path) == tmp_path


def test_the_working_folder_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    with pytest.raises(SettingError, match=r"holds .*give a folder of its own"):
        check_target(tmp_path, force=True)


async def test_a_disk_too_small_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(ResourceError, match=r"needs 3.00 GB of disk, 0.00 GB are free"):
        check_disk(tmp_path / "a" / "b", 3 * 10**9)
    with pytest.raises(LinkError, match=r"light' needs 0.07 GB of disk"):
        await run(save(path=str(tmp_path / "light")), context())
    assert left_in(tmp_path) == []


async def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(SettingError, match="max_shard_gb=0"):
        save(path="x", max_shard_gb=0)
    with pytest.raises(SettingError, match="tolerance=-1"):
        save(path="x", tolerance=-1)
