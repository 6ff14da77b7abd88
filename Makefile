# make demo: install and run the main job on a real image.   make test: install and run every check.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
DEMO := data/demo
# Bytecode is kept, also where the shell turns that off: the tests start many processes, and each would compile the code.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test lint types imports docs pytest bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: expected Python 3.11 to 3.13 on the PATH, got none. Install one, or make PYTHON=/path/to/python"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# The main job on a real image: scikit-image's immunohistochemistry photograph, whose four quarters stand in for slides.
demo: $(VENV)/.installed
	$(BIN)/python -m factory.ingest.demo $(DEMO)
	$(BIN)/factory ingest $(DEMO) --out data/real --scheme tissue --stain ihc --air-threshold 222 --size 256x256 --mpp 0.5 \
		--splits $(DEMO)/splits.csv --licence CC0-1.0
	$(BIN)/factory make --tps 0.01-0.5 --n 24 --size 256x256 --renderer exemplar --set renderer.mix=0 --like data/real --out data/synth
	$(BIN)/factory verify data/synth
	$(BIN)/segment train --mix real+synth --config quick --out runs/segment/demo --resume
	$(BIN)/segment evaluate --weights runs/segment/demo
	$(BIN)/factory inspect data/synth --beside data/real
	@echo
	@echo "The scores above are a smoke test on one photograph, not a result."
	@echo "Look at the tiles beside the real image: data/inspect/synth/sheet.png"

# Checks of one process run side by side, the tests after them: they keep two cores busy by themselves.
test: $(VENV)/.installed-dev
	$(MAKE) -j 2 lint types imports docs
	$(MAKE) pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

# The documentation site: docs/_build/html/index.html. Generated pages are written first; warnings are errors.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -q -W --keep-going -j auto -d docs/_build/doctrees docs docs/_build/html

pytest: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench

clean:
	rm -rf data/demo data/real data/synth data/inspect runs/segment/demo
