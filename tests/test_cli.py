"""The command line as users meet it: exit codes, what goes where, and how a run is stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer
from typer.testing import CliRunner, Result

from birdbone import __version__
from birdbone.chains.preflight import look as looking
from birdbone.cli import app
from birdbone.errors import LinkError, ResourceError

FAST = """
links:
  - load
  - calibrate: {length: 16, windows: 80, healing_windows: 4, heldout_windows: 4}
  - validate
"""
ENDLESS = FAST.replace("- validate", "- heal: {epochs: 1000000}") + "  - save\n"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama_tied").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A text that takes no time to tokenise."""
    folder = tmp_path / "words"
    folder.mkdir()
    for place in range(20):
        text = f"the {place} and the other thing in number {place} of them all " * 8
        (folder / f"{place}.txt").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests read does not depend on where they run."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


def birdbone(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="birdbone")


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def said(result: Result) -> str:
    """Standard error with whatever line breaks and frames removed."""
    return " ".join(result.stderr.replace("│", " ").split())


def test_help_and_version_need_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from birdbone.cli import app\n"
        "for args in ([], ['--help'], ['--version'], ['run', '--help']):\n"
        "    assert CliRunner().invoke(app, args).exit_code == 0, args\n"
        "assert not {'torch', 'transformers', 'modulink'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_help_names_every_command_and_option() -> None:
    top = birdbone("--help").stdout
    assert [
        name for name in ("run", "plot", "chains", "links", "inspect", "doctor") if name not in top
    ] == []
    text = birdbone("run", "--help").stdout
    options = ("model", "out", "data", "set", "recipe", "force", "json", "quiet", "log", "wandb")
    more = ("threads", "target", "stop-loss", "bits", "elsewhere")
    assert [name for name in (*options, *more) if f"--{name}" not in text] == []


def test_the_version_is_said() -> None:
    assert birdbone("--version").stdout == f"birdbone {__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["bird-bon", "--model", "m", "--out", "o"],
            "no chain 'bird-bon'; did you mean 'bird-bone'?",
        ),
        (
            ["bird-bone", "--model", "m", "--out", "o", "--set", "prune.sparsty=1"],
            "prune has no setting 'sparsty'; did you mean 'sparsity'?",
        ),
        (
            ["bird-bone", "--model", "m", "--out", "o", "--set", "prun.sparsity=1"],
            "has no link 'prun'; did you mean 'prune'?",
        ),
        (
            ["bird-bone", "--model", "m", "--out", "o", "--set", "prune.sparsity=2"],
            "prune(sparsity=2): Input should be less than 1",
        ),
        (
            ["bird-bone", "--model", "m", "--out", "o", "--set", "a.b=1", "--set", "a.b=2"],
            "a.b is set twice; set it once",
        ),
        (
            ["--recipe", "nowhere.yaml", "--model", "m", "--out", "o"],
            "recipe 'nowhere.yaml' cannot",
        ),
        (["bird-bone", "--model", "./none", "--out", "o", "--quiet"], "model './none' not found"),
        (
            ["one-shot", "--model", "m", "--out", "o", "--target", "0.8"],
            "--target sets waves.target, but chain 'one-shot' has no waves; use bird-bone",
        ),
        (
            ["bird-bone", "--model", "m", "--out", "o", "--stop-loss", "0"],
            "waves(stop_loss=0.0): Input should be greater than 0",
        ),
        (
            ["bird-bone", "--model", "m", "--out", "o", "--bits", "4", "--set", "quantize.bits=8"],
            "quantize.bits is set twice",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_message(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = birdbone("run", *args)
    assert result.exit_code == 1
    assert message in said(result)
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run"], "give CHAIN, one of bird-bone, one-shot, fit, quantize-only, or --recipe FILE"),
        (["run", "bird-bone", "--model", "m"], "chain 'bird-bone' needs --model and --out"),
        (["run", "bird-bone", "--threads", "0"], "greater than or equal to 1"),
        (["run", "bird-bone", "--log", "xml"], "'xml' is not one of"),
        (["lnks"], "No such command 'lnks'"),
        (["inspect"], "Missing argument"),
    ],
)
def test_a_command_that_is_no_command_ends_with_2(args: list[str], message: str) -> None:
    result = birdbone(*args)
    assert result.exit_code == 2
    assert message in said(result)


def test_chain_and_recipe_must_agree(tmp_path: Path) -> None:
    path = recipe(tmp_path, "chain: one-shot\n")
    result = birdbone("run", "bird-bone", "--recipe", path, "--model", "m", "--out", "o")
    assert result.exit_code == 2
    assert "the recipe is not of chain 'bird-bone'" in said(result)


def test_a_folder_that_is_not_ours_is_kept_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    args = ["run", "bird-bone", "--model", tmp_path / "none", "--out", tmp_path / "out", "--quiet"]
    assert "was not made by birdbone" in said(birdbone(*args))
    assert "none' not found" in said(birdbone(*args, "--force"))
    assert (tmp_path / "out" / "diary.txt").read_text() == "mine"


def test_chains_are_listed() -> None:
    assert "quantize-only" in birdbone("chains").stdout
    listed = json.loads(birdbone("chains", "--json").stdout)
    assert [each["name"] for each in listed] == ["bird-bone", "one-shot", "fit", "quantize-only"]


def test_a_run_without_save_shows_minutes_and_no_figures(
    model: Path, words: Path, tmp_path: Path
) -> None:
    path = recipe(tmp_path, FAST)
    result = birdbone("run", "--recipe", path, "--model", model, "--data", words)
    assert result.exit_code == 0
    assert "nothing was saved and measured" in result.stdout
    assert "validate: " in result.stderr
    assert "peak " in result.stderr


def test_what_the_user_set_in_vain_is_noted(model: Path, words: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, FAST)
    args = ["--model", model, "--data", words, "--out", tmp_path / "out"]
    result = birdbone("run", "--recipe", path, *args, "--quiet")
    assert result.exit_code == 0
    assert "note: recipe" in result.stderr
    assert "is not used" in result.stderr


def test_log_lines_for_programs_are_not_mixed_with_lines_for_people(
    model: Path, words: Path, tmp_path: Path
) -> None:
    path = recipe(tmp_path, FAST)
    args = ["--model", model, "--data", words, "--log", "json", "--json"]
    result = birdbone("run", "--recipe", path, *args)
    events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert events.count("link.finished") == 3
    assert [each["link"] for each in json.loads(result.stdout)["steps"]] == [
        "load",
        "calibrate",
        "validate",
    ]


def test_a_whole_run_gives_one_document_and_a_folder(
    model: Path, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "light"
    text = FAST + "  - save: {compare: false}\n"
    args = ["--recipe", recipe(tmp_path, text), "--model", model, "--data", words, "--out", out]
    result = birdbone("run", *args, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["path"] == str(out)
    assert document["figures"]["light"]["parameters"] == 31968
    assert document["measured_on"]["dtype"] == "float32"
    assert document["steps"][-1]["link"] == "save"
    assert result.stderr == ""
    assert "save(" not in birdbone("inspect", out).stdout
    assert "made by birdbone" in birdbone("inspect", out).stdout


def test_a_fault_of_ours_keeps_its_traceback(
    model: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("birdbone.links.validating.judge.skeleton_pair", broken)
    path = recipe(tmp_path, FAST)
    result = birdbone("run", "--recipe", path, "--model", model, "--data", words, "--quiet")
    assert result.exit_code == 1
    assert isinstance(result.exception, LinkError)
    assert isinstance(result.exception.__cause__, ZeroDivisionError)


def test_what_the_file_system_refuses_needs_no_traceback(
    model: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "light")

    monkeypatch.setattr("birdbone.links.validating.judge.skeleton_pair", full)
    path = recipe(tmp_path, FAST)
    result = birdbone("run", "--recipe", path, "--model", model, "--data", words, "--quiet")
    assert result.exit_code == 1
    assert said(result).startswith("error: link 'validate' failed: OSError")
    assert "No space left on device" in said(result)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_and_nothing_is_written(
    number: signal.Signals, code: int, model: Path, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "light"
    command = [sys.executable, "-m", "birdbone", "run", "--recipe", recipe(tmp_path, ENDLESS)]
    command += ["--model", model, "--data", words, "--out", out, "--json"]
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip().startswith("calibrate: "):
                process.send_signal(number)
                break
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "stopped at the next block; nothing was written" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert [path.name for path in out.parent.iterdir()] == ["light.run"]  # what resumes the run


WAVES = """
links:
  - load
  - calibrate: {length: 16, windows: 8, healing_windows: 4, heldout_windows: 4}
  - profile
  - score
  - waves: {body: [prune: {method: magnitude}, validate], stop_loss: 9.0, max_waves: 5}
  - save: {compare: false}
"""


def test_waves_end_at_the_target_given_and_are_told_and_drawn(
    tmp_path: Path, model: Path, words: Path
) -> None:
    out = tmp_path / "out"
    args = ["--recipe", recipe(tmp_path, WAVES), "--model", model, "--data", words, "--out", out]
    kept = tmp_path / "run"
    result = birdbone("run", *args, "--target", "0.85", "--run", kept)
    assert result.exit_code == 0, result.stderr
    assert "Waves, evaluated in memory on held-out text" in result.stdout
    left = json.loads((out / "birdbone.json").read_text())["steps"][-1]["metrics"]
    assert left["parameters_left"] == pytest.approx(0.85, abs=1e-3)
    assert left["ended"] == "the target is reached"
    picture = tmp_path / "curve.svg"
    drawn = birdbone("plot", out, "--out", picture)
    assert drawn.exit_code == 0, drawn.stderr
    assert "perplexity against parameters" in said(drawn)
    assert "rise of perplexity over dense" in picture.read_text()
    of_run = tmp_path / "run.svg"
    assert birdbone("plot", kept, "--out", of_run).exit_code == 0
    assert of_run.read_bytes() == picture.read_bytes()


@pytest.mark.slow
def test_bird_bone_runs_as_it_reads_and_again_in_the_same_bytes(
    tmp_path: Path, model: Path, words: Path
) -> None:
    out, kept = tmp_path / "out", tmp_path / "run"
    texts = {"length": 16, "windows": 4, "healing_windows": 4, "heldout_windows": 4}
    settings = [f"calibrate.{name}={value}" for name, value in texts.items()]
    settings += ["heal.epochs=1", "heal#2.epochs=2", "quantize.group_size=null"]
    settings += ["save.compare=false"]
    args = ["--model", model, "--data", words, "--out", out, "--run", kept, "--quiet", "--json"]
    args += ["--target", "0.85", "--stop-loss", "9", "--bits", "8"]
    args += [word for each in settings for word in ("--set", each)]
    result = birdbone("run", "bird-bone", *args)
    assert result.exit_code == 0, result.stderr
    steps = json.loads(result.stdout)["steps"]
    assert [each["link"] for each in steps if each.get("within") is None] == [
        *("load", "calibrate", "profile", "score", "waves", "quantize", "heal", "validate", "save")
    ]
    healed = [each for each in steps if each["link"] == "heal"]
    assert [each["settings"]["epochs"] for each in healed] == [1] * (len(healed) - 1) + [2]
    assert json.loads((out / "config.json").read_text())["quantization_config"]
    first = {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    other = tmp_path / "other"
    again = birdbone("run", "bird-bone", *args, "--out", other, "--run", tmp_path / "fresh")
    assert again.exit_code == 0, again.stderr
    assert {path.name: path.read_bytes() for path in other.glob("*.safetensors")} == first


def test_a_dry_run_says_what_a_run_would_cost_and_does_nothing(
    model: Path, tmp_path: Path, words: Path
) -> None:
    rules = FAST.replace("- validate", "- quantize: {group_size: 16}") + "  - save\n"
    args = ("run", "--recipe", recipe(tmp_path, rules), "--model", model, "--data", words)
    before = sorted(tmp_path.rglob("*"))
    done = birdbone(*args, "--out", tmp_path / "light", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert f"Will write {tmp_path / 'light'}" in done.stdout.replace("\n", "")
    assert "quantize" in done.stdout
    done = birdbone(*args, "--out", tmp_path / "light", "--dry-run", "--json")
    document = json.loads(done.stdout)
    links = ["load", "calibrate", "quantize", "save"]
    assert [each["link"] for each in document["links"]] == links
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_cannot_work(model: Path, tmp_path: Path, words: Path) -> None:
    rules = FAST.replace("length: 16", "length: 512")
    args = ("run", "--recipe", recipe(tmp_path, rules), "--model", model, "--data", words)
    done = birdbone(*args, "--dry-run")
    assert done.exit_code == 1
    assert "the model has 64 positions" in said(done)


def test_sources_may_be_repeated_and_a_dry_run_tells_what_they_hold(
    model: Path, tmp_path: Path, words: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(" ".join(f"other{number}" for number in range(2000)))
    args = ["--recipe", recipe(tmp_path, FAST), "--model", model, "--data", f"{words}:2"]
    args += ["--data", "pydoc", "--elsewhere", other, "--dry-run"]
    done = birdbone("run", *args, "--json")
    assert done.exit_code == 0, done.stderr
    texts = json.loads(done.stdout)["texts"]
    assert [(each["use"], each["weight"]) for each in texts] == [
        ("data", 2.0),
        ("data", 1.0),
        ("elsewhere", 1.0),
    ]
    shown = birdbone("run", *args).stdout
    assert "duplicates" in shown


def test_a_run_ends_with_its_estimates_beside_what_happened(
    model: Path, tmp_path: Path, words: Path
) -> None:
    args = ("run", "--recipe", recipe(tmp_path, FAST), "--model", model, "--data", words)
    done = birdbone(*args)
    assert done.exit_code == 0, done.stderr
    assert "birdbone: expected: " in done.stderr
    assert "Expected and measured cost:" in done.stdout
    document = json.loads(birdbone(*args, "--json").stdout)
    links = ["load", "calibrate", "validate"]
    assert [each["link"] for each in document["estimates"]] == links


def test_a_run_in_a_begun_folder_is_looked_at_and_what_is_replayed_is_told(
    model: Path, tmp_path: Path, words: Path
) -> None:
    args = ("run", "--recipe", recipe(tmp_path, FAST), "--model", model, "--data", words)
    (tmp_path / "kept").mkdir()
    first = birdbone(*args, "--run", tmp_path / "kept")
    assert "expected: " in first.stderr
    assert "are replayed" not in first.stderr
    again = birdbone(*args, "--run", tmp_path / "kept")
    assert again.exit_code == 0, again.stderr
    assert "expected: " in again.stderr
    assert "kept holds are replayed, not run again" in " ".join(said(again).split())


def test_a_run_that_goes_on_is_not_refused_for_what_may_have_run(
    model: Path, tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("run", "--recipe", recipe(tmp_path, FAST), "--model", model, "--data", words)
    assert birdbone(*args, "--run", tmp_path / "kept").exit_code == 0

    def full(*_: object, **__: object) -> None:
        raise ResourceError("too little")

    monkeypatch.setattr(looking, "preflight", full)
    anew = birdbone(*args, "--run", tmp_path / "new")
    assert (anew.exit_code, (tmp_path / "new").exists()) == (1, False)
    again = birdbone(*args, "--run", tmp_path / "kept")
    assert again.exit_code == 0, again.stderr
    assert "too little; steps kept in" in again.stderr
