# Each target makes the virtual environment it needs from nothing and reuses it until pyproject.toml changes.
# Variables: PYTHON (makes the environment), VENV (where it lies), OUTPUT (quickstart's pictures), PORT (of the demo),
# SPACE (folder of the assembled Space), PYTEST_ARGS.

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= outputs/quickstart
PORT ?= 7860
SPACE ?= outputs/space
# A worker for each core; the tests of a file stay together, because they share what is made once for the file.
PYTEST_ARGS ?= -n auto --dist loadfile

BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
WHEEL_DIR := dist

.DEFAULT_GOAL := help
.PHONY: help quickstart demo space test style format wheel

help:
	@echo "make quickstart  segment a bundled case: overlay, uncertainty map and Dice in $(OUTPUT)/"
	@echo "make demo        serve the demo on http://127.0.0.1:$(PORT)"
	@echo "make space       put the Hugging Face Space together in $(SPACE)/"
	@echo "make test        run all tests; PYTEST_ARGS=\"-m 'not slow'\" for the fast ones"
	@echo "make style       check format and lint"
	@echo "make format      mend format and lint"
	@echo "make wheel       build the wheel and load the bundled checkpoint from it"

# The package is installed in editable form, so that every target runs the sources as they stand.
$(CORE): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	touch $(CORE)

$(DEMO): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[demo]"
	touch $(CORE) $(DEMO)

$(DEV): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[dev]"
	touch $(CORE) $(DEMO) $(DEV)

quickstart: $(CORE)
	$(BIN)/python -m ccsam_hf.cli.quickstart --output $(OUTPUT)

demo: $(DEMO)
	$(BIN)/python demo/app.py --host 127.0.0.1 --port $(PORT)

space: $(CORE)
	$(BIN)/python demo/assemble.py $(SPACE)

test: $(DEV)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

style: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Runs inside the unpacked wheel, so that a file the wheel lacks is missed here and not by a user.
wheel: $(DEV)
	rm -rf $(WHEEL_DIR)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir $(WHEEL_DIR) .
	$(BIN)/python -m zipfile --extract $(WHEEL_DIR)/*.whl $(WHEEL_DIR)/unpacked
	cd $(WHEEL_DIR)/unpacked && $(abspath $(BIN))/python -c "import pathlib, ccsam_hf; \
		assert pathlib.Path(ccsam_hf.__file__).is_relative_to(pathlib.Path.cwd()), ccsam_hf.__file__; \
		ccsam_hf.CCSamModel.from_pretrained(ccsam_hf.TINY); \
		print('bundled checkpoint loaded from the wheel')"
