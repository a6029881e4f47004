"""The script that runs lm-eval: what it asks of lm-eval, refuses and writes, and real look-ups."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from birdbone.models.evaluation import fresh_process, run_tasks, standalone, task_evaluation
from birdbone.models.evaluation.task_evaluation import TaskChoice

TASKS = Path(__file__).parents[2] / "tasks"
LIMIT = 6


class Task:
    """What the script asks of a task of lm-eval."""

    def __init__(self, name: str, documents: list[Any], **more: Any) -> None:
        self.task_name, self.eval_docs = name, documents
        self.config: dict[str, Any] = {"num_fewshot": None}
        self.aggregations: dict[str, Callable[[], None]] = {}
        vars(self).update(more)

    def get_config(self, key: str) -> Any:
        return self.config[key]

    def set_config(self, key: str, value: Any) -> None:
        self.config[key] = value

    def dump_config(self) -> dict[str, Any]:
        return self.config

    def set_fewshot_seed(self, seed: int) -> None:
        self.seed = seed

    def aggregation(self) -> dict[str, Callable[[], None]]:
        return self.aggregations

    def higher_is_better(self) -> dict[str, bool]:
        return {"ppl": False}


class Library(dict[str, Task]):
    """Stands in for lm-eval: its tasks by name, each in the YAML file of that name.

    Attributes:
        place: the folder of its own tasks.
        indexed: the folders of each index that was built.
        found: results and samples of each task, as ``lm_eval.evaluate`` returns them.
    """

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place, self.indexed = place, []
        self.found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}

    def manager(self, include_path: list[Path] | None, include_defaults: bool = True) -> Any:
        folders = [*(include_path or ()), *([self.place] if include_defaults else [])]
        self.indexed.append([folder.name for folder in folders])
        names = [path.stem for folder in folders for path in folder.rglob("*.yaml")]
        return SimpleNamespace(all_tasks=names, load=self.load)

    def load(self, names: list[str]) -> dict[str, Any]:
        return {"tasks": {name: self[name] for name in names}}

    def evaluate(self, *, lm: Any, task_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        (name,) = task_dict["tasks"]
        results, samples = self.found[name]
        return {"results": {name: results}, "samples": {name: samples}}

    def add(self, name: str, folder: str = "own", **more: Any) -> Task:
        (self.place / folder).mkdir(exist_ok=True, parents=True)
        (self.place / folder / f"{name}.yaml").write_text(f"task: {name}\n")
        self[name] = Task(name, ["one", "two", "three"], **more)
        return self[name]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library(tmp_path / "library")
    package, tasks = ModuleType("lm_eval"), ModuleType("lm_eval.tasks")
    vars(tasks).update(__file__=str(found.place / "__init__.py"), TaskManager=found.manager)
    vars(package).update(tasks=tasks, evaluate=found.evaluate)
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", tasks)
    (tmp_path / "site" / "lm_eval-1.5.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "lm_eval-1.5.dist-info" / "METADATA").write_text("Version: 1.5\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)  # put back after the test; the script changes it
    return found


def respond(*names: str, **more: Any) -> Any:
    """What the script answers; with ``model`` it evaluates, and without it looks tasks up."""
    request = {"tasks": names, "include": [], "cwd": ".", "limit": None, "seed": 7, "done": []}
    request |= {"device": "cpu", "dtype": "float32", **more}
    return run_tasks.respond(request, lambda: "the model", runtime="9")


def test_only_the_folders_of_the_tasks_are_indexed(library: Library) -> None:
    for name, folder in (("sums", "arithmetic"), ("facts", "world"), ("more", "world")):
        library.add(name, folder)
    found = respond("facts")
    assert [each["task"] for each in found["tasks"]] == ["facts"]
    assert found["lm_eval"] == "1.5"
    assert library.indexed == [[], ["world"]]


def test_an_unknown_task_is_refused_with_names_like_it(library: Library) -> None:
    library.add("arithmetic")
    fault = respond("aritmetic")["fault"]
    assert fault.startswith("unknown task 'aritmetic'; did you mean arithmetic? ")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"UNSAFE_CODE": True}, "task 'odd' runs code that models write; not supported"),
        ({"MULTIMODAL": True}, "task 'odd' needs pictures; models here read text only"),
        ({"eval_docs": []}, "task 'odd' has no samples"),
    ],
)
def test_a_task_that_cannot_be_used(library: Library, more: Any, message: str) -> None:
    library.add("odd", **more)
    assert respond("odd") == {"fault": message}


def test_a_definition_depends_on_settings_and_samples_and_not_on_addresses(
    library: Library,
) -> None:
    task = library.add("sums")

    def definition(**config: Any) -> str:
        task.config |= config
        found: str = respond("sums")["tasks"][0]["definition"]
        return found

    first = definition(function=object(), metadata=1)
    assert definition(function=object(), metadata=2) == first
    assert definition(description="Add.") != first
    second = definition()
    task.eval_docs = ["one", "two", "four"]
    assert definition() != second


def test_results_are_written_one_by_one_and_those_done_are_not_made_again(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = {"filter": "none", "doc_hash": "a", "acc": 1.0}
    for name in ("first", "second", "third"):
        library.add(name)
        library.found[name] = ({"acc,none": 1.0}, [sample, {**sample, "filter": "strict"}])
    asked = {"model": True, "place": str(tmp_path), "done": ["second"]}
    assert respond("first", "second", "third", **asked) == {"done": 2}
    assert capsys.readouterr().out == "@ 1 2 tasks evaluated\n@ 2 2 tasks evaluated\n"
    found = [json.loads((tmp_path / f"{place}.json").read_text()) for place in (1, 2)]
    assert [each["task"] for each in found] == ["first", "third"]
    assert (found[0]["samples"], found[0]["num_fewshot"]) == (["a"], 0)
    assert found[0]["environment"].items() >= {"runtime": "9", "device": "cpu"}.items()
    assert library["first"].seed == 7
    assert not list(tmp_path.glob("*.part"))


def aggregation(name: str) -> Callable[[], None]:
    def function() -> None:
        """lm-eval's aggregations are known by their names."""

    function.__name__ = name
    return function


@pytest.mark.parametrize(
    ("kind", "rows", "score", "scale", "values"),
    [
        ("mean", [1, 0, True], 2 / 3, "mean", [1.0, 0.0, 1.0]),
        ("perplexity", [-1.0, -3.0], math.exp(2), "perplexity", [1.0, 3.0]),
        ("weighted_perplexity", [[-2.0, 1], [-6.0, 3]], math.exp(2), "perplexity", [2.0, 6.0]),
        ("bits_per_byte", [[-2.0, 4], [-6.0, 4]], 1 / math.log(2), "bits", [2.0, 6.0]),
        ("mean", [1, 0], 0.6, "other", []),  # not the mean of the samples
        ("f1", [1, 1], 1.0, "other", []),
        ("mean", ["right"], 1.0, "other", []),
        ("mean", [], 1.0, "other", []),
    ],
)
def test_how_a_score_follows_from_the_samples(
    library: Library,
    tmp_path: Path,
    kind: str,
    rows: list[Any],
    score: float,
    scale: str,
    values: list[float],
) -> None:
    library.add("sums", aggregations={"ppl": aggregation(kind)})
    samples = [{"filter": "none", "doc_hash": "a", "ppl": row} for row in rows]
    other = {"filter": "strict", "doc_hash": "a", "acc": 0.5}
    scored = {"alias": "sums", "ppl,none": score, "ppl_stderr,none": 0.1, "acc,strict": 0.5}
    library.found["sums"] = (scored, [*samples, other])
    respond("sums", model=True, place=str(tmp_path))
    first, second = json.loads((tmp_path / "1.json").read_text())["metrics"]
    assert (first["metric"], first["higher_is_better"], first["score"]) == ("ppl", False, score)
    assert (first["scale"], first["values"]) == (scale, values)
    weights = [row[1] if isinstance(row, list) else 1.0 for row in rows]
    assert first["weights"] == (weights if values else [])
    assert (second["metric"], second["higher_is_better"]) == ("acc (strict)", True)


def choice(*names: str, **more: Any) -> TaskChoice:
    return TaskChoice(names, (TASKS,), LIMIT, **more)


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What looking up each of several choices answers, all of them in one process."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install 'birdbone[eval]'")
    place = tmp_path_factory.mktemp("tasks")
    (place / "away.yaml").write_text(
        "task: away\ndataset_path: nobody/nothing\ntest_split: test\ndoc_to_text: a\n"
        "output_type: loglikelihood\ndoc_to_target: b\n"
    )
    (place / "broken.yaml").write_text("task: broken\ncustom_dataset: 3\n")
    choices = {
        "own": choice("birdbone_arithmetic", "birdbone_prose", seed=1),
        "same": choice("birdbone_arithmetic"),
        "file": TaskChoice((str(TASKS / "arithmetic.yaml"),), limit=LIMIT),
        "fewer": TaskChoice(("birdbone_arithmetic",), (TASKS,), 2),
        "unknown": choice("birdbone_aritmetic"),
        "away": TaskChoice(("away",), (place,)),
        "broken": TaskChoice(("broken",), (place,)),
        "nowhere": TaskChoice(("away",), (place / "none",)),
    }
    requests = {name: place / f"{name}.request" for name in choices}
    for name, path in requests.items():
        asked = {**choices[name].request(), "result": str(place / f"{name}.result")}
        path.write_text(json.dumps(asked))
    subprocess.run(
        [
            *fresh_process.interpreter()[:2],
            standalone.__file__,
            task_evaluation.PROGRAM,
            *requests.values(),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return {name: json.loads((place / f"{name}.result").read_text()) for name in choices}


def test_own_tasks_are_found_without_a_network(looked_up: Mapping[str, Any]) -> None:
    found = looked_up["own"]["tasks"]
    assert [each["task"] for each in found] == ["birdbone_arithmetic", "birdbone_prose"]
    assert [each["num_samples"] for each in found] == [LIMIT, LIMIT]


def test_a_definition_is_that_of_the_task_and_its_samples(looked_up: Mapping[str, Any]) -> None:
    own, same, file, fewer = (
        looked_up[name]["tasks"][0]["definition"] for name in ("own", "same", "file", "fewer")
    )
    assert own == same == file
    assert fewer != own


def test_what_cannot_be_used_is_refused_with_the_fix(looked_up: Mapping[str, Any]) -> None:
    faults = {name: found.get("fault", found.get("error")) for name, found in looked_up.items()}
    assert "did you mean birdbone_arithmetic" in faults["unknown"]
    assert faults["away"].startswith("the data of task 'away' cannot be read: ")
    assert "--include" in faults["away"]
    assert faults["broken"].startswith("task 'broken' cannot be loaded: ")
    assert "does not exist; give a folder of YAML tasks" in faults["nowhere"]
