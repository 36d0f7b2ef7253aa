# make run     set everything up, start the whole platform, print its addresses
# make test    every test       make check   format, lint, types, quick tests
# make bench   the figures of docs/benchmarks.md
#
# The environment is .venv, made by pip with the exact versions of constraints.txt.
# Options: PYTHON=python3.12, RUN_FLAGS="--server-port 9000", TEST_FLAGS="-k router".

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
JOBS ?= 2

.PHONY: run test check bench format clean

run: .venv/.run
	$(BIN)/python -m fastchat.serve.launch_all_serve $(RUN_FLAGS)

test: .venv/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(TEST_FLAGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright & types=$$!; \
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow" $(TEST_FLAGS); tests=$$?; \
	wait $$types && exit $$tests

bench: .venv/.dev
	$(BIN)/python benchmarks/run.py $(BENCH_FLAGS)

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist *.egg-info

# A pip older than 23.3 does not find the extra `model_worker` and goes on without it.
# torch comes before the rest and alone: whatever asks for it later finds it there.
.venv/.base: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) torch
	touch $@

.venv/.run: .venv/.base pyproject.toml setup.py fastchat/engine/native.c
	$(PIP) -e ".[model_worker,webui]"
	touch $@

.venv/.dev: .venv/.run
	$(PIP) -e ".[all,dev]"
	touch $@
