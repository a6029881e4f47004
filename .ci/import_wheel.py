"""Import every module of the installed wheel, and check that it contains nothing else."""

import importlib
from importlib.metadata import files, requires
from pathlib import PurePosixPath

from packaging.requirements import Requirement

import birdbone

installed = [PurePosixPath(path) for path in files("birdbone") or ()]
modules = sorted(
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in installed
    if path.suffix == ".py" and path.name != "__main__.py"
)
strangers = [name for name in modules if name.split(".")[0] != "birdbone"]
strangers += [name for name in modules if name.split(".")[1:2] in (["tests"], ["benchmarks"])]
assert not strangers, f"the wheel contains {strangers}; correct the packages list in pyproject.toml"
needed = [Requirement(text) for text in requires("birdbone") or ()]
optional = {each.name for each in needed if each.marker and "extra" in str(each.marker)}
left = []
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in optional:
            raise
        left.append(name)
        print(f"{name} skipped: it needs {error.name}, which is installed by an extra of birdbone")
print(f"{len(modules) - len(left)} modules of {birdbone.__file__} imported")
