# make demo: draw a dataset, train on it, test the best checkpoint.   make test: all checks and tests.
# Every target but audit, lock and clean first makes .venv, if it is missing or older than the requirements.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# In the order of tests/conftest.py, so that a slow file does not come last.
PYTEST := $(RUN) -m pytest --dist loadfile --no-loadscope-reorder
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.10 --no-annotate --quiet

# The tests that make fast runs.
CORE := checkpoints datasets docs engine files layouts losses metrics network progress

.PHONY: demo test fast lint types format docs fuzz audit lock clean

demo: $(VENV)/installed
	$(RUN) -m demo
	$(RUN) training.py --name demo --dataset demo --overwrite True --pretrained False --model mobilenet \
		--num_LIBs 2 --size 64 --bs 16 --epoch 9

test: lint types
	$(PYTEST) -n auto

# The tests of the core, in about a minute.
fast: lint types
	$(PYTEST) -n auto -m "not slow and not browser and not cluster" $(CORE:%=tests/test_%.py)

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Types, and the order of the packages.
types: $(VENV)/installed
	$(RUN) -m mypy --num-workers auto
	$(VENV)/bin/lint-imports

format: $(VENV)/installed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(VENV)/installed
	$(RUN) -m docs.generate

# 10,000 random inputs for every reader of files and command lines.
fuzz: $(VENV)/installed
	$(RUN) -m fuzz

$(VENV)/installed: requirements.txt requirements-extra.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --disable-pip-version-check --no-deps -r requirements-extra.txt
	@touch $@

# Known vulnerabilities in the pinned packages; needs uv and a connection. A package that cannot be checked is an error.
audit:
	uvx pip-audit --strict --disable-pip --no-deps -r requirements.txt -r requirements-extra.txt

# Pin the requirements again after a change of pyproject.toml; needs uv. requirements-extra.txt leaves out the packages
# of requirements.txt.
lock:
	$(COMPILE) --group dev --custom-compile-command "make lock" -o requirements.txt
	$(COMPILE) --all-extras -c requirements.txt --custom-compile-command \
		"make lock    (install this file with pip install --no-deps)" -o requirements-extra.txt
	grep -v '^#' requirements.txt | grep -vxFf - requirements-extra.txt > requirements-extra.tmp
	mv requirements-extra.tmp requirements-extra.txt

clean:
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
