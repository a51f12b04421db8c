# Needs Python 3.11 to 3.13 with venv, and make. Everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: check demo test lint types docs package assets install clean

check: lint types test

demo: assets
	$(BIN)/python recipes/emoji_text_to_image.py --run-dir runs/demo

# Two processes, whole files each: most of the time goes into tracing, which keeps one core busy.
# One half of the files after the other: a process keeps some memory of every file.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile
test: assets
	$(PYTEST) --part 1/2; first=$$?; $(PYTEST) --part 2/2 && exit $$first

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The site, in site/; every warning is an error.
docs: install
	$(BIN)/python -m mkdocs build --strict

# Wheel and source distribution, in dist/, checked.
package: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# Third-party drawings and weights, pinned by sha256; fetched once into the user's cache.
assets: install
	$(BIN)/keras-mdm assets fetch emoji minilm efficientnet-lite0

install: $(INSTALLED)

$(INSTALLED): setup.py setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[emoji,video,serve,dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
