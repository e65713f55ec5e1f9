# Every command of the project. A fresh machine needs Python >= 3.11, git and make; the first command that needs it
# creates .venv and installs the exact versions of constraints.txt.

PYTHON    ?= python3
PIP_FLAGS ?=
WORKERS   ?= auto
BIN       := .venv/bin
INSTALLED := .venv/installed

.PHONY: test demo lint types golden gallery benchmarks readme ttsem clean

test: lint types
	$(BIN)/python -m pytest -n $(WORKERS)

demo: $(INSTALLED)
	$(BIN)/gradc demo

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The folders as they are installed: mypy would not find gradc.codegen in the repository itself.
types: $(INSTALLED)
	rm -rf build/tree
	mkdir -p build/tree/gradc
	ln -s $(CURDIR)/gradc/* $(CURDIR)/codegen $(CURDIR)/runtime build/tree/gradc/
	$(BIN)/mypy build/tree/gradc

# Rewrites the golden kernels; read the diff before you commit it.
golden: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -k golden --update-golden

# Exports of the benchmarks and the gallery by a second executor; a few of them run with `make test`.
ttsem: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m ttsem --whole

# Writes docs/gallery: what becomes of the functions of examples/gallery.py.
gallery: $(INSTALLED)
	$(BIN)/python -m examples.document

benchmarks: $(INSTALLED)
	$(BIN)/python -m benchmarks

# Brings what the README shows, and its figures, up to date; `make benchmarks` makes the figures.
readme: $(INSTALLED)
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf build dist demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# torch==2.13.0 is pinned in constraints.txt; for its CPU build where the default index serves the CUDA one, see there.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("gradc needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[triton,dev]'
	-$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt --no-deps --ignore-requires-python ttsem
	touch $@
