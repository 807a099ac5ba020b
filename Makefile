# make demo | test | lint | docs | notebook | sanitize | fuzz | bench | wheel-check | gpu-check
# TORCH picks the torch: TORCH=torch==2.13.0 make test
PYTHON ?= python3
TORCH ?= torch>=2.10
VENV ?= .venv
BIN := $(VENV)/bin
# What the environment is built from; it is built again when one of these changes.
SOURCES := pyproject.toml setup.py $(wildcard build_backend/*.py csrc/*.h csrc/*.cpp csrc/cpu/* csrc/cuda/* csrc/engine/*)

.PHONY: demo test lint docs notebook sanitize fuzz bench wheel-check gpu-check clean FORCE

demo: $(VENV)/.demo
	$(BIN)/python benchmarks/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.h' 'tests/*.cpp')

# The site, build/site/index.html; a warning fails. The variable hides a notice of the theme's about its own future.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Executed anew, its outputs with it: some minutes of CPU.
notebook: $(VENV)/.dev
	$(BIN)/jupyter execute --inplace examples/all_experiments.ipynb

# The CPU library built apart with AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, under the tests of
# what is written in C++; SANITIZE=--all adds the tests that estimate.
sanitize: $(VENV)/.test
	$(BIN)/python -m tests.sanitize $(SANITIZE)

# Random arguments and damaged files: 100,000 cases, and a record in benchmarks/results/.
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --cases 100000 --record

# benchmarks/test_*.py by pytest-benchmark: its tables, and a record of each file in benchmarks/results/.
bench: $(VENV)/.test
	mkdir -p .benchmarks
	$(BIN)/python -m pytest benchmarks/test_*.py --benchmark-enable --benchmark-json=.benchmarks/latest.json
	$(BIN)/python benchmarks/pytest_record.py .benchmarks/latest.json

# One wheel beside several torches -> benchmarks/results/wheel.json. Downloads each, several GB for a CUDA build.
wheel-check: $(VENV)/.test
	$(BIN)/python benchmarks/wheel_check.py --torch 2.11.0 2.13.0 2.14.1

# Everything a GPU machine can tell in one go: tests on the device, compute-sanitizer, timings -> benchmarks/results/.
# Builds in the environment that is there (its CUDA torch), without touching the network.
gpu-check:
	MINE_FAST_CUDA=1 $(PYTHON) -m pip install --no-build-isolation --no-deps .
	$(PYTHON) benchmarks/gpu_check.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip

# torch first and by itself, so that the package builds against the one that was asked for. The stamp holds what that
# was, and is written anew, so that the package is built again, only when TORCH says something else.
$(VENV)/.torch: $(BIN)/python FORCE
	@if [ "$$(cat $@ 2>/dev/null)" != '$(TORCH)' ]; then \
	  $(BIN)/python -m pip install '$(TORCH)' && echo '$(TORCH)' > $@; \
	fi

FORCE:

# `make test` after `make demo` adds what tests need, and builds again only if sources changed. Editable: pytest and
# doctest import the package from this folder, so that is where the compiled library has to be. [dev] holds [test].
$(VENV)/.%: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install -e '.[$*]'
	touch $@ $(if $(filter dev,$*),$(VENV)/.test)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
