# make demo: train, measure, report on embedded data.   make test: the default test suite.
# Both make the virtual environment first if it is not there; nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INTEROP = .venv-interop
DOCS = .venv-docs
RUN ?= runs/digits

.PHONY: setup demo test test-long test-slow test-interop docs lint figures bench gpu clean

setup: $(VENV)/.ready

# torch first and by version: with it in place no other package asks for another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/bigbigan train small/digits --out $(RUN) --steps 900
	$(BIN)/bigbigan evaluate $(RUN) --metrics 'top1_linear_*,knn5_l2_*,reconstruction_ratio'
	$(BIN)/bigbigan report $(RUN)
	@echo 'Digits are easy for raw pixels. The package has an encoder that is clearly ahead of them on Fashion-MNIST: bigbigan serve small/fashion_mnist'

test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-long: setup
	$(BIN)/python -m pytest -m long --numprocesses auto --maxprocesses 8 --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -m slow

# With timm, torchvision, ONNX Runtime, datasets and others, in an environment of their own: all else does without.
# gradio needs a Pillow below 13. Its page is opened in Chromium: apt-get install chromium, or playwright's own.
test-interop: $(INTEROP)/.ready
	$(INTEROP)/bin/python -m pytest -m 'not long' tests/external

$(INTEROP)/.ready: pyproject.toml constraints.txt tests/external/requirements.txt
	$(PYTHON) -m venv $(INTEROP)
	sed /^pillow=/d constraints.txt > $(INTEROP)/constraints.txt
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -c $(INTEROP)/constraints.txt torch
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -c $(INTEROP)/constraints.txt -e . -r tests/external/requirements.txt
	touch $@

# The site, in build/docs, also in an environment of its own. Warnings are errors.
docs: $(DOCS)/.ready
	rm -rf build/docs docs/generated
	$(DOCS)/bin/python -m sphinx --builder html --fail-on-warning --keep-going --quiet \
		--doctree-dir build/doctrees docs build/docs

$(DOCS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

figures: setup
	$(BIN)/python -m docs.figures

bench: setup
	$(BIN)/bigbigan bench small/digits

# For a machine with a GPU: under nine minutes. REHEARSE=1 make gpu: on the CPU, tiny.
gpu: setup
	PYTHON=$(BIN)/python bash reproduction/gpu.sh

clean:
	rm -rf $(VENV) $(INTEROP) $(DOCS) runs build dist docs/generated
