# Every target sets up what it needs, once; `make` alone lists them.
#   VENV=/other/disk/venv   where the environment goes
#   VENV=none               use the current interpreter, install nothing
#   PYTHON=python3.12       the Python that makes the environment

VENV   ?= .venv
PYTHON ?= python3

ifeq ($(VENV),none)
PY    := $(PYTHON)
READY :=
# kdlib is not installed here: notebooks and their kernels find it this way
export PYTHONPATH := $(CURDIR)$(addprefix :,$(PYTHONPATH))
else
PY    := $(VENV)/bin/python
READY := $(VENV)/.stamp
endif

# GB of disk: 3.3 of wheels beside the 6.6 they unpack to; where torch is installed already, the difference
NEED_GB ?= $(if $(wildcard $(VENV)/lib/*/site-packages/torch),4,10)

# The lock decides alone. A constraints file in the machine's pip configuration would contradict it, and an
# empty PIP_CONSTRAINT falls back to that file, so it is /dev/null; a configured --user cannot work inside an
# environment. Wheels wait inside the environment's folder, whose disk was checked: /tmp may be a small memory
# disk, and a cache would keep a second copy of them.
PIP = PIP_CONSTRAINT=/dev/null PIP_USER=0 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
  TMPDIR=$(abspath $(VENV))/tmp $(PY) -m pip

.DEFAULT_GOAL := help
.PHONY: report test test-cluster lab audit-example bench setup check lock help

report: $(READY)  ## train the digits study, then draw every page: reports/index.html
	$(PY) -m kdlib report

test: $(READY)  ## run the tests, as many files at a time as there are cores
	$(PY) -m pytest -q -n auto --maxprocesses 8 --dist loadfile --durations 20

test-cluster: $(READY)  ## run the tests that start a Ray cluster of two nodes here
	KDLIB_REQUIRE=$(KDLIB_REQUIRE),ray $(PY) -m pytest -q tests/study/test_two_nodes.py

lab: $(READY)  ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab notebooks

audit-example: $(READY)  ## audit a pair from the records in this repository: reports/audit-example.html
	$(PY) -m kdlib audit --study cifar100-lt-self --out reports/audit-example.html

bench: $(READY)  ## measure the speed on this CPU, under 10 minutes: bench/README.md
	$(PY) -m bench cpu

setup: $(READY)  ## make the environment and nothing else

check:  ## can this machine hold the environment?
	@$(PYTHON) tools/check_machine.py $(VENV) $(NEED_GB)

lock:  ## write requirements.lock from pyproject.toml (needs uv; newer versions: UVFLAGS=--upgrade)
	uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --no-header --no-annotate \
	  --quiet $(UVFLAGS) pyproject.toml --output-file requirements.lock

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 22

# The stamp comes last: an install that was interrupted or failed leaves none, so the next call does it again.
$(VENV)/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) tools/check_machine.py $(VENV) $(NEED_GB)
	@echo "torch: several GB, 2-4 minutes"
	$(PYTHON) -m venv $(VENV)
	@rm -rf $(VENV)/tmp && mkdir $(VENV)/tmp
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -rf $(VENV)/tmp
	@touch $@
