"""A chain is looked at in outline: what it says of itself is what it does, or it is refused."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict

import pytest
from tiny import tiny_checkpoint, tiny_windows

from birdbone.chains import CHAINS, LINKS, configure
from birdbone.chains.preflight import look as looking
from birdbone.chains.preflight.look import preflight
from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.contexts.forecast import Forecast, Preflight
from birdbone.engine import Chain, link, run
from birdbone.errors import LinkError, ResourceError
from birdbone.links import calibrate, heal, load, profile, prune, quantize, save, score, validate
from birdbone.links.waves import waves
from birdbone.models.planning.memory import pass_bytes
from birdbone.models.planning.outline import held_bytes
from birdbone.models.planning.timing import BlockTimes
from birdbone.models.writing.folder import write_model


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs beside the tests, no caution comes of it."""
    monkeypatch.setattr(looking, "BUSY", math.inf)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("heavy") / "tiny"
    folder.mkdir()
    write_model(tiny_checkpoint(), folder, max_shard_bytes=1 << 30)
    return str(folder)


def texts() -> dict[str, Any]:
    """What calibrate would leave, for links that are run for real."""
    return {
        "calibration": tiny_windows(24),
        "healing": tiny_windows(4, seed=1),
        "heldout": tiny_windows(3, seed=2),
    }


def test_every_link_says_what_it_costs() -> None:
    assert [name for name, each in LINKS.items() if each.hooks.forecast is None] == []


def shapes(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What a checkpoint is made of: kind, shape, dtype and bytes of every tensor."""
    return {
        name: (isinstance(ref, Quantized), ref.shape, ref.dtype, ref.num_bytes)
        for name, ref in checkpoint.refs.items()
    }


REAL = {
    "mask": prune(sparsity=0.5),
    "neurons": prune(pattern="neurons", sparsity=0.5, multiple=8),
    "groups": prune(pattern="groups", sparsity=0.5),
    "layers": prune(pattern="layers", sparsity=0.34),
    "codes": quantize(group_size=16),
    "codes with a scale a row": quantize(group_size=None, bits=8, method="rtn"),
    "values on a grid": quantize(group_size=16, symmetric=False),
    "blocks of ggml's": quantize(grid="q8_0"),
    "handed to bitsandbytes": quantize(method="llm.int8"),
    "healed": heal(epochs=1),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.filterwarnings("ignore:quantize stores dequantised values")
async def test_the_outline_a_link_leaves_is_of_the_model_it_leaves(name: str) -> None:
    wanted, dense = REAL[name], tiny_checkpoint()
    ctx = {"checkpoint": dense, "dense": dense, **texts()}
    ctx = await run(Chain(profile(), score()), ctx)
    told = wanted.factory.hooks.forecast(ctx, wanted.settings)
    left = (await run(wanted, ctx))["checkpoint"]
    assert shapes(told.adds["checkpoint"]) == shapes(left)
    assert held_bytes(told.adds["checkpoint"]) == held_bytes(left)
    assert told.adds["checkpoint"].config == left.config
    assert told.block_passes >= (0 if "scale a row" in name or "handed" in name else 3)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "gpt_oss"])
def test_fewer_layers_are_foretold_where_the_config_lists_each(arch: str) -> None:
    dense, fewer = tiny_checkpoint(arch), REAL["layers"]
    ctx = {"checkpoint": dense, "dense": dense, **texts()}
    told = fewer.factory.hooks.forecast(ctx, fewer.settings).adds["checkpoint"]
    assert 0 < told.num_parameters < dense.num_parameters


@pytest.mark.parametrize("asked", [calibrate(windows=3, length=8), profile(), score(), validate()])
def test_what_is_told_to_be_added_is_what_the_link_gives(asked: Any) -> None:
    dense = tiny_checkpoint()
    ctx = {"checkpoint": dense, "dense": dense, **texts()}
    if asked.__name__ == "score":
        ctx.update(profile().factory.hooks.forecast(ctx, profile().settings).adds)
    told = asked.factory.hooks.forecast(ctx, asked.settings)
    assert told.adds.keys() >= asked.adds - {"checkpoint"}


@pytest.mark.parametrize("name", CHAINS)
def test_every_predefined_chain_is_seen_to_its_end(name: str, model: str, tmp_path: Path) -> None:
    chain = CHAINS[name](model=model, out=str(tmp_path / "light"))
    small = {"calibrate.windows": 8, "calibrate.length": 16}
    if name != "fit":  # there allocate decides
        small["quantize.group_size"] = 8
    found = preflight(configure(chain, small))
    assert found.blind_from is None
    assert [each.link for each in found.links] == [each.__name__ for each in chain.links]
    assert found.links[-1].writes == str(tmp_path / "light")
    assert found.links[-1].disk_bytes > tiny_checkpoint().num_bytes / 2
    assert all(each.seconds >= 0 and each.peak_bytes > 0 for each in found.links)
    assert found.peak_bytes >= found.links[-1].peak_bytes + found.links[-1].process_bytes
    assert found.speed.block > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibrate.length": 512}, r"'calibrate' .*the model has 64 positions"),
        ({"quantize.group_size": 48}, r"'quantize' .*group_size 48 does not divide width 32"),
        ({"load.model": "no/such/model"}, r"'load' .*not found"),
    ],
)
def test_what_cannot_work_is_refused(
    changes: dict[str, Any], message: str, model: str, tmp_path: Path
) -> None:
    chain = CHAINS["quantize-only"](model=model, out=str(tmp_path / "light"))
    small = {"calibrate.length": 16, "quantize.group_size": 16}
    with pytest.raises(LinkError, match=message):
        preflight(configure(chain, {**small, **changes}))


def test_settings_are_checked_on_what_the_links_before_would_leave(model: str) -> None:
    """Seven neurons would be left of 64, and the codes' groups are of 16."""
    chain = Chain(
        load(model=model),
        calibrate(length=16),
        profile(),
        score(),
        prune(pattern="neurons", sparsity=0.9, multiple=1),
        quantize(group_size=16),
    )
    with pytest.raises(LinkError, match=r"'quantize' .*does not divide width 6"):
        preflight(chain)


def chain_of(model: str, tmp_path: Path) -> Chain:
    return Chain(
        load(model=model),
        calibrate(windows=64, length=64),
        quantize(group_size=16, batch_size=4),
        save(path=str(tmp_path / "light")),
    )


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """So much memory is free, and this process holds none."""
    monkeypatch.setattr(looking, "_resident_bytes", lambda: 0)
    monkeypatch.setattr(looking, "free_bytes", lambda: free)


def test_what_cannot_fit_is_refused_with_the_setting_that_would(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(model, tmp_path)
    room(monkeypatch, 1 << 40)
    needs = preflight(chain).peak_bytes
    alone = preflight(configure(chain, {"save.compare": False})).peak_bytes
    monkeypatch.setattr(looking, "_OFF_BY", needs / (alone + 2))
    room(monkeypatch, alone)
    with pytest.raises(ResourceError, match=r"link 'save' .* had; with save.compare=False it"):
        preflight(chain)
    room(monkeypatch, 0)
    with pytest.raises(ResourceError, match="no setting known here makes it fit"):
        preflight(chain)


def test_what_may_fit_as_estimates_go_is_told_and_not_refused(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(model, tmp_path)
    room(monkeypatch, 1 << 40)
    needs = preflight(chain).peak_bytes
    room(monkeypatch, round(needs / 1.2))
    (caution,) = preflight(chain).cautions
    assert caution.startswith("memory may not be enough: link 'save' is expected to need")
    room(monkeypatch, round(needs / 1.3))
    with pytest.raises(ResourceError, match="link 'save' is expected to need"):
        preflight(chain)


def test_fewer_windows_are_advised_where_windows_are_what_does_not_fit(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(load(model=model), calibrate(windows=4096, length=64), quantize(group_size=16))
    room(monkeypatch, 20 << 20)
    with pytest.raises(ResourceError, match=r"link 'quantize' .* and calibrate.windows=512 it "):
        preflight(chain)


class Cut(TypedDict):
    """What needs a model and may leave another."""

    checkpoint: Required[Checkpoint]


@link
async def cut(ctx: Cut) -> Cut:
    """A link of somebody else's that cannot know what it will leave."""
    return ctx


def leaves_a_guess(ctx: Mapping[str, Any], settings: Any) -> Forecast:
    narrow = prune(pattern="neurons", sparsity=0.9, multiple=1)
    told = narrow.factory.hooks.forecast(ctx, narrow.settings)
    return Forecast(adds=told.adds, guessed=True, notes=("as narrow as can be",))


def test_a_guess_refuses_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six neurons would be left, if it came so: groups of 16 do not divide them."""
    monkeypatch.setattr(cut.hooks, "forecast", leaves_a_guess)
    before = (load(model=model), calibrate(length=16), profile(), score(), cut())
    found = preflight(Chain(*before, quantize(group_size=16)))
    assert found.blind_from == "quantize"
    (caution,) = found.cautions
    assert caution.startswith("link 'quantize' would not work on the sizes expected there: layer")
    assert found.links[-1].notes == ("as narrow as can be",)
    assert [each.guessed for each in found.links] == [False] * 4 + [True]


def test_a_guess_at_memory_refuses_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Forecast(guessed=True, memory_bytes=1 << 30)
    monkeypatch.setattr(cut.hooks, "forecast", lambda ctx, settings: told)
    room(monkeypatch, 10 << 20)
    (caution,) = preflight(Chain(load(model=model), cut())).cautions
    assert caution.startswith("memory may not be enough: link 'cut' is expected to need 1.07 GB")


def test_a_forecast_that_breaks_is_told_and_the_rest_is_not_seen(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ctx: Mapping[str, Any], settings: Any) -> Forecast:
        raise KeyError("widths")

    monkeypatch.setattr(cut.hooks, "forecast", broken)
    found = preflight(Chain(load(model=model), cut(), quantize(method="rtn", group_size=16)))
    assert [each.link for each in found.links] == ["load"]
    assert found.blind_from == "cut"
    assert found.cautions == ("the cost of link 'cut' cannot be foretold: KeyError('widths')",)


def test_sources_of_text_are_read_and_a_missing_one_is_refused(model: str, tmp_path: Path) -> None:
    talk = tmp_path / "talk.jsonl"
    rows = ({"text": f"row {number} " * 40} for number in range(40))
    talk.write_text("\n".join(map(json.dumps, rows)))
    found = preflight(Chain(load(model=model), calibrate(data=(f"{talk}:3", "pydoc"), length=16)))
    assert [(each.name.split()[0], each.use, each.weight) for each in found.texts] == [
        ("talk.jsonl", "data", 3.0),
        ("pydoc", "data", 1.0),
        ("stdlib", "elsewhere", 1.0),
    ]
    assert (found.texts[0].documents, found.texts[0].is_estimate) == (40, False)
    with pytest.raises(LinkError, match="'calibrate' failed: text 'gone' is neither"):
        preflight(Chain(load(model=model), calibrate(data=(str(talk), "gone"), length=16)))
    with pytest.raises(LinkError, match="line 1 has no column 'body'; its columns are 'text'"):
        preflight(Chain(load(model=model), calibrate(data=f"{talk}?column=body", length=16)))


def test_where_no_block_can_be_timed_no_time_is_known(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(checkpoint: Checkpoint, length: int) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(looking, "time_block", broken)
    found = preflight(Chain(load(model=model), calibrate(length=16)))
    assert (found.speed, found.run_seconds, found.links[0].seconds) == (None, None, None)
    assert found.links[0].peak_bytes > 0
    assert found.cautions == (
        "times are not known, for no block could be timed: RuntimeError('no kernel')",
    )


def test_after_a_link_that_says_nothing_there_is_nothing_to_see(model: str, tmp_path: Path) -> None:
    async def unknown(ctx: Mapping[str, Any]) -> Mapping[str, Any]:
        return ctx

    found = preflight(Chain(load(model=model), unknown, save(path=str(tmp_path / "light"))))
    assert [each.link for each in found.links] == ["load"]
    assert found.blind_from == "unknown"


def test_a_quantised_model_is_multiplied_out_before_it_is_made_narrower(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, 1 << 40)
    folder = Path(model).parent / "quantised"
    if not folder.exists():
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes"}
        (folder / "config.json").write_text(json.dumps(config))
    narrow, wide = (
        [
            each.peak_bytes
            for each in preflight(
                Chain(load(model=str(folder), dtype=dtype), calibrate(data="pydoc", length=16))
            ).links
        ]
        for dtype in ("bfloat16", "float32")
    )
    size = 4 * tiny_checkpoint().num_parameters
    assert narrow == [size + size // 2, size // 2]
    assert size < wide[0] < 1.5 * size
    assert wide[1] == size


def waved(model: str, **settings: Any) -> Chain:
    body = Chain(prune(pattern="neurons", multiple=4), heal(epochs=1), validate(), name="body")
    return Chain(
        load(model=model),
        calibrate(windows=8, healing_windows=4, heldout_windows=4, length=16),
        profile(),
        score(),
        waves(body=body, **settings),
    )


def notes(found: Preflight) -> tuple[str, ...]:
    return found.links[-1].notes


def test_waves_are_as_many_as_lead_to_the_target(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 neurons each wave takes a quarter, in whole fours: 48, 36, 28, 24, 20."""
    monkeypatch.setattr(looking, "time_block", lambda dense, length: BlockTimes(1, 1, 1, 1, 1, 1))
    one, three, five = (
        preflight(waved(model, step=0.25, target=target)) for target in (0.9, 0.74, 0.61)
    )
    assert notes(one) == ("1 wave to the target, if each is kept",)
    assert notes(three) == ("3 waves to the target, if each is kept",)
    assert notes(five)[0] in {
        f"{count} waves to the target, if each is kept" for count in (4, 5, 6)
    }
    times = [found.links[-1].seconds for found in (one, three, five)]
    assert times == sorted(times)


def test_without_a_target_all_waves_are_counted_and_that_is_said(model: str) -> None:
    found = preflight(waved(model, max_waves=7))
    assert notes(found)[0].startswith("at most 7 waves; they end when stop_loss is exceeded")
    assert found.links[-1].guessed


def test_waves_hold_a_model_to_go_back_to(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 1 << 40)
    one, two = (
        preflight(waved(model, step=0.25, target=target)).links[-1] for target in (0.9, 0.74)
    )
    assert two.peak_bytes > one.peak_bytes


def test_save_needs_what_it_writes_or_what_it_runs(model: str, tmp_path: Path) -> None:
    dense, asked = tiny_checkpoint(), save(path=str(tmp_path / "light"))
    ctx = {"checkpoint": dense, "dense": dense, **texts()}

    def need(context: Mapping[str, Any]) -> int:
        return int(asked.factory.hooks.forecast(context, asked.settings).memory_bytes)

    scored = pass_bytes(dense, tiny_windows(3, seed=2), 1, grams=False)
    assert need(ctx) >= max(scored, dense.num_bytes)
    long = {**ctx, "heldout": tiny_windows(400)}
    judged = {**long, "verdict": None}
    assert need(judged) < need(long)


def test_a_machine_that_was_busy_while_it_was_timed_is_told(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "BUSY", 0.25)
    for taken in (0.2, 1.4):
        times = BlockTimes(1, 1, 1, 1, 1, 1, taken=taken)
        monkeypatch.setattr(looking, "time_block", lambda dense, length, found=times: found)
        cautions = preflight(Chain(load(model=model), calibrate(length=16))).cautions
        assert [each[:24] for each in cautions] == ["other programs kept 1.4 "][: taken > 1]


def config_alone(model: str, folder: Path) -> str:
    """The config of the model, without its weights."""
    shutil.copy(Path(model) / "config.json", folder)
    return str(folder / "config.json")


def one_pass(model: str) -> Chain:
    """Quantisation on built-in text; nothing is sampled."""
    texts = calibrate(data="pydoc", windows=2, heldout_windows=1, elsewhere_windows=1, length=16)
    return Chain(load(model=model), texts, quantize(group_size=16))


def test_an_accelerator_that_is_not_there_is_judged_by_its_memory(
    model: str, tmp_path: Path
) -> None:
    chain = one_pass(config_alone(model, tmp_path))
    found = preflight(chain, device_bytes=10**9)
    assert found.free_bytes == 10**9
    loaded, _, quantized = found.links
    assert loaded.peak_bytes == 0  # the device holds nothing of it
    assert 0 < quantized.peak_bytes < 10**8
    assert quantized.host_bytes > 0
    assert all(each.host_bytes == 0 for each in preflight(chain).links)
    with pytest.raises(ResourceError, match=r"link 'quantize' .* on the device, 0\.00 GB"):
        preflight(chain, device_bytes=1000)


def test_a_config_alone_is_estimated_and_does_not_run(model: str, tmp_path: Path) -> None:
    path = config_alone(model, tmp_path)
    whole, alone = preflight(one_pass(model)), preflight(one_pass(path))
    assert [each.link for each in alone.links] == [each.link for each in whole.links]
    assert alone.model_bytes == whole.model_bytes > 0


def test_a_block_that_cannot_be_timed_here_is_not_loaded(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "free_host_bytes", lambda: 1000)
    monkeypatch.setattr(looking, "time_block", lambda *_: pytest.fail("a block was loaded"))
    found = preflight(one_pass(model))
    assert found.speed is None
    assert any("does not fit in the memory of this machine" in each for each in found.cautions)


def test_blocks_larger_than_the_timed_one_are_mentioned(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_block_values", lambda _: (100, 2000))
    (caution,) = preflight(one_pass(model)).cautions
    assert "the largest has 20 times its parameters" in caution
