"""The explicit packages list against the folders, and what must travel with them."""

import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_PACKAGED = {"tests", "benchmarks", "examples", "docs", "build"}


def test_the_packages_list_names_every_folder_with_an_init_file() -> None:
    found = {"birdbone"} if (ROOT / "__init__.py").exists() else set()
    for init in ROOT.glob("[!.]*/**/__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if parts[0] not in NOT_PACKAGED:
            found.add(".".join(("birdbone", *parts)))
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == found


def test_every_folder_with_python_files_is_a_package_or_known_not_to_be() -> None:
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/*.py")}
    names = {f"birdbone.{'.'.join(folder.parts)}" for folder in folders}
    unpackaged = {name for name in names if name.split(".")[1] in NOT_PACKAGED}
    assert names - unpackaged <= set(SETTINGS["tool"]["setuptools"]["packages"])


def test_the_makefile_links_every_file_of_every_package() -> None:
    listed = subprocess.run(
        ["make", "-s", "-f", "Makefile", "-f", "-", "listed"],
        input="listed:\n\t@echo $(SOURCES)\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    packages = SETTINGS["tool"]["setuptools"]["packages"]
    folders = [ROOT.joinpath(*name.split(".")[1:]) for name in packages]
    files = {str(path.relative_to(ROOT)) for folder in folders for path in folder.glob("*.py")}
    assert set(listed) == files | {"py.typed"}


def test_every_runtime_dependency_is_pinned_in_the_tested_set() -> None:
    pinned = {
        line.split("==")[0]
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    extras = SETTINGS["project"]["optional-dependencies"]
    dependencies = SETTINGS["project"]["dependencies"]
    for extra in ("bitsandbytes", "gguf", "peft", "structlog", "wandb"):  # the tests use them
        dependencies = [*dependencies, *extras[extra]]
    named = (dependency.split(">=")[0] for dependency in dependencies)
    assert {name.lower().replace("_", "-") for name in named} <= pinned


def pins(name: str) -> dict[str, Version]:
    """The exact versions in a requirements file."""
    lines = (ROOT / name).read_text().splitlines()
    found = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name: Version(version) for name, version in found}


def test_lower_bounds_are_no_higher_than_the_oldest_tested_versions() -> None:
    tested, oldest = pins("requirements.txt"), pins("requirements-oldest.txt")
    assert tested.keys() == oldest.keys()
    assert all(oldest[name] <= tested[name] for name in tested)
    assert oldest["torch"] == tested["torch"]  # the one build that both sets install
    project = SETTINGS["project"]
    listed = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        listed += extra
    for requirement in map(Requirement, listed):
        name = requirement.name.lower().replace("_", "-")
        if name in oldest:
            for version in (oldest[name], tested[name]):
                assert requirement.specifier.contains(version), (str(requirement), version)


def test_what_tasks_need_goes_with_the_tested_set() -> None:
    added, tested = pins("eval-requirements.txt"), pins("requirements.txt")
    assert not added.keys() & tested.keys()
    (needed,) = SETTINGS["project"]["optional-dependencies"]["eval"]
    assert Requirement(needed).specifier.contains(added["lm-eval"])


def test_the_type_marker_travels() -> None:
    assert (ROOT / "py.typed").exists()
    assert "py.typed" in SETTINGS["tool"]["setuptools"]["package-data"]["birdbone"]
