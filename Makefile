# make setup    everything into .venv; quick when up to date
# make demo     serve the embedded model and ask it something   (ONCE=1, PORT=8188, MODEL=directory)
# make test     all tests, those with the real tritonserver included
# make test-full  those that take long too, and make sanitize
# make sanitize   the kernels under AddressSanitizer and UBSan
# make check    linters and type checkers, and make size
# make size     files, functions and lines per package
# make coverage  lines of the Python packages that the unit tests run
# make bench    our speed beside llama.cpp, vLLM and OpenVINO     (PEERS=directory, ONLY="decode http", ROUNDS=3)
# make bench WRITE=1  the tables and plots of docs/performance.md, from what was measured
# make bench VISION=1  a vision tower's speed, next to transformers'  (VISION=a Python that has torch and transformers)
# make bench URL=http://127.0.0.1:8188   load a running server
# make bench PAGES=8   PaddleOCR-VL at its full size, with random weights: pages a minute
# make perf_analyzer  install Triton's load generator; test does it too
# make train    the embedded model from nothing, in an hour (PyTorch goes into .venv-train)
# make test-train  that training goes on after it was killed
# make clean    remove .venv and everything built

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo perf_analyzer test test-full sanitize check size coverage bench train test-train clean

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= triton,paddle,dev,bench
PORT ?= 8188
MODEL ?=
ONCE ?=
URL ?=
PEERS ?= build/peers
ONLY ?=
ROUNDS ?=
WRITE ?=
VISION ?=
PAGES ?=
TEST ?= tests
# How many tests run at once; those that start servers run one after another in any case.
WORKERS ?= 2
UNIT_TESTS ?= tests/unit

BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PERF_ANALYZER := $(BIN)/perf_analyzer
SANITIZED := build/sanitized
# What pip needs to build the three distributions without a build environment of its own, which would make
# every build a download and a build from nothing.
BUILD_TOOLS := "scikit-build-core>=0.10,<2" "nanobind>=2.2,<4" "hatchling>=1.24,<2" "editables>=0.5,<1" \
	"cmake>=3.26,<5" "ninja>=1.11,<2"
SOURCES := Makefile pyproject.toml backend/stub/pyproject.toml openai_frontend/pyproject.toml CMakeLists.txt \
	$(wildcard kernels/cpu/*)
# The entries have one model.py in common, which a test sees to.
PYTHON_FILES := backend openai_frontend kernels tests benchmarks tools model_repository/ernie-tiny
TRAIN_VENV ?= .venv-train
TRAIN_STAMP := $(TRAIN_VENV)/.setup-done
# What training imports, in the versions of pyproject.toml.
TRAIN_NEEDS := torch transformers safetensors sentencepiece jinja2 rich numpy pytest
TRAIN_REQUIREMENTS = $(foreach name,$(TRAIN_NEEDS),$(or \
    $(shell grep -oEm1 '"$(name)[<>=][^"]*"' pyproject.toml),$(error pyproject.toml asks for no $(name))))
TRAIN := PYTHONPATH=tools:backend:backend/stub $(TRAIN_VENV)/bin/python -m
PARALLEL := -n $(WORKERS) --dist loadgroup
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

help:
	@sed -n '/^# make/s/^# //p' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)

$(STAMP): $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) .ci/check_prerequisites.py
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python .ci/check_prerequisites.py
	@echo "installing into $(VENV) ($$($(BIN)/python --version)): build tools"
	@$(PIP) install $(BUILD_TOOLS)
	@echo "installing into $(VENV): ernie-triton and what it needs; the kernels are compiled (some minutes)"
	@$(PIP) install --no-build-isolation -e backend/stub -e openai_frontend -e ".[$(EXTRAS)]"
ifneq ($(findstring triton,$(EXTRAS)),)
	@$(BIN)/python -c 'from pathlib import Path; from ernie_cli.triton.bundled import write_launcher; write_launcher(Path("$(BIN)"))'
endif
	@touch $@

$(PERF_ANALYZER): benchmarks/install_perf_analyzer.py | $(STAMP)
	@echo "installing into $(VENV): perf_analyzer"
	@$(BIN)/python benchmarks/install_perf_analyzer.py
	@touch $@

perf_analyzer: $(PERF_ANALYZER)

demo: setup
	@exec $(BIN)/ernie-triton demo --port $(PORT) $(if $(MODEL),--model "$(MODEL)") $(if $(filter-out 0,$(ONCE)),--once)

test: setup perf_analyzer
	@$(BIN)/pytest $(PARALLEL) --durations=20 $(TEST)

test-full: setup perf_analyzer sanitize
	@$(BIN)/pytest $(PARALLEL) --durations=20 -m "" $(TEST)

# The sanitizers' library must come first in the process, and the C++ library with it, so that it can catch throws.
# --capture=sys leaves them the standard error that they write a fault to before they end the process.
sanitize: setup
	@$(BIN)/cmake -G Ninja -S . -B $(SANITIZED) -DERNIE_SANITIZE=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	    -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) >/dev/null
	@$(BIN)/cmake --build $(SANITIZED)
	@LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 ERNIE_SANITIZED_CPU=$$(echo $(SANITIZED)/_cpu*.so) \
	    $(BIN)/python -m pytest -p sanitized_kernels --capture=sys --timeout=3000 -k "not paddle" \
	    $(wildcard tests/numerics/test_ops_*.py)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PYTHON_FILES)
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(shell find kernels/cpu -name '*.[ch]pp')
	@$(BIN)/python tools/size_report.py

size: setup
	@$(BIN)/python tools/size_report.py

# What runs in processes that the tests start is not counted.
coverage: setup
	@$(BIN)/coverage run -m pytest --quiet $(UNIT_TESTS)
	@$(BIN)/coverage report

COMPARISON := PYTHONPATH=benchmarks $(BIN)/python -m comparison
ifneq ($(URL),)
BENCHMARK := $(BIN)/python benchmarks/load.py --url "$(URL)"
else ifneq ($(PAGES),)
BENCHMARK := $(BIN)/python benchmarks/pages.py --pages "$(PAGES)"
else ifneq ($(VISION),)
BENCHMARK := $(BIN)/python benchmarks/vision_tower.py$(if $(filter-out 1,$(VISION)), --peer "$(VISION)")
else ifneq ($(WRITE),)
BENCHMARK := $(COMPARISON) --write
else
BENCHMARK := benchmarks/peers/install.sh "$(PEERS)" && \
    $(COMPARISON) --peers "$(PEERS)"$(if $(ONLY), --only $(ONLY))$(if $(ROUNDS), --rounds $(ROUNDS))
endif

bench: setup
	@$(BENCHMARK)

# Training runs from the sources: it needs of them neither the kernels nor the server.
$(TRAIN_STAMP): pyproject.toml
	@test -x $(TRAIN_VENV)/bin/python || { echo "creating $(TRAIN_VENV)"; $(PYTHON) -m venv $(TRAIN_VENV); }
	@echo "installing into $(TRAIN_VENV): PyTorch and transformers (minutes)"
	@$(TRAIN_VENV)/bin/python -m pip --disable-pip-version-check --quiet install $(TRAIN_REQUIREMENTS)
	@touch $@

train: $(TRAIN_STAMP)
	@$(TRAIN) train_embedded.train
	@$(TRAIN) train_embedded.export

test-train: $(TRAIN_STAMP)
	@$(TRAIN) pytest -q -c /dev/null --noconftest tests/training

clean:
	rm -rf .venv .venv-3.10 $(TRAIN_VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
