"""Import every module of the installed wheel, and see that nothing else travelled in it."""

import importlib
from importlib.metadata import files
from pathlib import PurePosixPath

import birdbone

installed = [PurePosixPath(path) for path in files("birdbone") or ()]
modules = sorted(
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in installed
    if path.suffix == ".py" and path.name != "__main__.py"
)
strangers = [name for name in modules if name.split(".")[0] != "birdbone"]
strangers += [name for name in modules if name.split(".")[1:2] in (["tests"], ["benchmarks"])]
assert not strangers, f"the wheel carries {strangers}; mend the packages list in pyproject.toml"
for name in modules:
    importlib.import_module(name)
print(f"{len(modules)} modules of {birdbone.__file__} imported")
