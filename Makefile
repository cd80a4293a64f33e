# make setup       a virtual environment in .venv with everything below; instant once it is up to date
# make demo        draw five pictures with the small model inside the package
# make test        the fast tests; `make test-slow` runs the others
# make check       lint, format and types
# make parity      compare with recorded tensors of the original: make parity GOLDENS=folder
# make peers       diffusers' own tests over our pipeline and models: make peers DIFFUSERS=checkout
# make parity-bench scorer cases through the real scoring code: make parity-bench CASES=folder
# make bench       speed, memory and quality; BENCH="--size tiny" in seconds, for other options benchmarks/bench.py --help
# make bench-train speed of a training step, against the original's path
# make docs        run every block of README.md and docs/ and check links; says how many ran, and what was substituted
# make docs-site   build the documentation site into site/, without network; ends at the first warning
# make wheel       build the wheel, install it into an empty environment with its dependencies, and draw a picture there

PYTHON ?= python3
VENV ?= .venv
GOLDENS ?= tests/goldens
CASES ?= tests/evaluation/cases
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp

.PHONY: setup demo test test-slow check parity peers parity-bench bench bench-train docs docs-site wheel
setup: $(STAMP)

# PyTorch first and by itself: it is the one large download, and a failure there should say so.
# Before the distribution was called deepgen-image it was called deepgen; both would own the same command.
$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip uninstall --quiet --yes deepgen 2>/dev/null
	$(PY) -m pip install --quiet torch -c constraints.txt
	$(PY) -m pip install --quiet -e '.[dev]' -c constraints.txt
	@touch $(STAMP)

demo: $(STAMP)
	@$(PY) tools/demo.py

# One thread a process: the tests' models are so small that threads cost more than they bring.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

test-slow: $(STAMP)
	$(PY) -m pytest -m slow

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

parity: $(STAMP)
	$(PY) tools/parity.py $(GOLDENS)

peers: $(STAMP)
	@test -n "$(DIFFUSERS)" || { echo "say where diffusers lies: make peers DIFFUSERS=folder" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(PY) tools/peers.py $(DIFFUSERS)

parity-bench: $(STAMP)
	$(PY) tools/parity_bench.py $(CASES)

bench: $(STAMP)
	$(PY) benchmarks/bench.py $(BENCH)

bench-train: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) benchmarks/train_path.py

docs: $(STAMP)
	$(PY) -m pytest tests/test_docs.py
	$(PY) tools/run_docs.py $(PAGES)

docs-site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

wheel:
	$(PYTHON) tools/check_wheel.py
