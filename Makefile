# make demo: draw a dataset, train on it, test the best checkpoint.   make test: every test.
# Both make .venv first, where it is missing or older than the requirements.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test clean

demo: $(VENV)/installed
	$(RUN) -m demo
	$(RUN) training.py --name demo --dataset demo --overwrite True --pretrained False --model mobilenet \
		--num_LIBs 2 --size 64 --bs 16 --epoch 9

test: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile

$(VENV)/installed: requirements.txt requirements-extra.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --disable-pip-version-check --no-deps -r requirements-extra.txt
	@touch $@

clean:
	rm -rf $(VENV)
