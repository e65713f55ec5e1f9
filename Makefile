# Every command of the project. A fresh machine needs Python >= 3.11, git and make; the first command that needs it
# creates .venv and installs the exact versions of constraints.txt.

PYTHON    ?= python3
PIP_FLAGS ?=
GPU_FLAGS ?=
WORKERS   ?= auto
BIN       := .venv/bin
INSTALLED := .venv/installed

.PHONY: test demo lint types tree golden gallery benchmarks ttsem gpu wheels readme clean

test: lint types
	$(BIN)/python -m pytest -n $(WORKERS)

demo: $(INSTALLED)
	$(BIN)/gradc demo

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The folders as they are installed: nothing would find gradc.codegen in the repository itself.
tree:
	rm -rf build/tree
	mkdir -p build/tree/gradc
	ln -s $(CURDIR)/gradc/* $(CURDIR)/codegen $(CURDIR)/runtime build/tree/gradc/

types: $(INSTALLED) tree
	$(BIN)/mypy build/tree/gradc

# Rewrites the golden kernels; read the diff before you commit it.
golden: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -k golden --update-golden

# Exports of the benchmarks and the gallery by a second executor; a few of them run with `make test`.
ttsem: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m ttsem --whole

# Writes docs/gallery, what becomes of the functions of examples/gallery.py, and docs/conventions.md.
gallery: $(INSTALLED)
	$(BIN)/python -m examples.document
	$(BIN)/python -m examples.conventions

benchmarks: $(INSTALLED)
	$(BIN)/python -m benchmarks

# What a GPU is asked first; `make gpu GPU_FLAGS='--from times'` begins later. See benchmarks/README.md: it needs no .venv.
gpu: tree
	test ! -d wheels || $(PYTHON) -m pip install -q --no-index --no-deps --upgrade --target build/wheels wheels/*.whl
	PYTHONPATH=build/tree:build/wheels:. $(PYTHON) -m benchmarks.gpu $(GPU_FLAGS)

# What `make gpu` lacks on a machine with PyTorch, Triton, NumPy, rich and SymPy, to be carried there with the checkout.
wheels:
	$(PYTHON) -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
	  -c constraints.txt -d wheels optree ml_dtypes

# Brings what the README shows, and its figures, up to date; `make benchmarks` makes the figures.
readme: $(INSTALLED)
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf build dist demo-output wheels *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# torch==2.13.0 is pinned in constraints.txt; for its CPU build where the default index serves the CUDA one, see there.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("gradc needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[triton,dev]'
	-$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt --no-deps --ignore-requires-python ttsem
	touch $@
