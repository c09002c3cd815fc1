# One command each for a newcomer, for CI and for daily work. `make` alone lists them.
#
#   STACK=cpu|cuda   the lock to install; by default cuda where nvidia-smi works, cpu elsewhere
#   PYTHON=...       the interpreter that creates .venv; by default the first of python3.11, python3, ... that is >= 3.11
#   ARGS=...         further arguments of pytest or of the quickstart, e.g. make test ARGS="tests/unit -x"

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTHON ?=
ARGS   ?=
ifndef STACK
STACK := $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
endif
ifeq ($(filter $(STACK),cpu cuda),)
$(error STACK=$(STACK) is neither cpu nor cuda)
endif
LOCK := requirements/$(STACK).txt
# torchrec names the CUDA wheel of fbgemm, which a CPU machine must not get; on a GPU pip has to add the NVIDIA libraries.
NO_DEPS := $(if $(filter cpu,$(STACK)),--no-deps)
# Bytecode is written afterwards on all cores: pip does it on one, and that is half of its time here.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile
# The stamp holds the stack that it stands for; another one has to be installed over it.
OTHER_STACK := $(if $(wildcard $(STAMP)),$(if $(filter $(STACK),$(shell cat $(STAMP))),,stack-changed))

.DEFAULT_GOAL := help
.PHONY: help quickstart test faults endurance commit-cost slurm-test first-run exactly-once config-fuzz arrow-fuzz stream-fuzz shuffle-quality read-memory corruption plan-memory gpu-check guard-cost check doctor metric-figures method-costs dynamic-figures dynamic-cost venv clean stack-changed

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s%s\n", $$1, $$2 }' Makefile

quickstart: $(STAMP) ## make sample logs, train on two ranks, evaluate, print the table
	@PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 \
		$(BIN)/torchrun --standalone --nproc_per_node 2 launch/train.py configs/quickstart.toml $(ARGS)

test: $(STAMP) ## run every test
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q $(ARGS)

metric-figures: $(STAMP) ## the figures of docs/metrics.md: 10 million rows against scikit-learn, about 3 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/figures/metric_accuracy.py $(ARGS)

method-costs: $(STAMP) ## what a method adds to a step: the table of docs/methods.md, two models, about 15 minutes
	@$(BIN)/python -m benchmarks.speed --methods --rows 100000 --rounds 6 --steps 2 $(ARGS)
	@echo; $(BIN)/python -m benchmarks.speed --methods configs/quickstart.toml --rounds 15 --steps 3 $(ARGS)

dynamic-figures: $(STAMP) ## AUC of dynamic tables under 5 % new ids a day, against ones large enough; about 10 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/figures/dynamic_ids.py $(ARGS)

dynamic-cost: $(STAMP) ## what 26 dynamic tables add to a training step, on 1 and 2 ranks; about 10 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/figures/dynamic_cost.py $(ARGS)

corruption: $(STAMP) ## one-bit flips in files of three codecs, what becomes of them and what looking costs; about 5 minutes
	@OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python benchmarks/figures/corruption.py $(ARGS)

first-run: $(STAMP) ## the suggested configuration of every log at hand, beside a hand-made one: docs/quality.md; half an hour
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.figures.first_run $(ARGS)

exactly-once: $(STAMP) ## 2,000 cases of every order: each row once an epoch, whatever the restarts; 1 to 5 minutes
	@OMP_NUM_THREADS=1 EXACTLY_ONCE_CASES=2000 $(BIN)/python -m pytest -q -s tests/property/test_exactly_once.py $(ARGS)

config-fuzz: $(STAMP) ## 5,000 mutated configurations: a named error at once, or one that round-trips; half a minute
	@OMP_NUM_THREADS=1 CONFIG_FUZZ_CASES=5000 $(BIN)/python -m pytest -q -s tests/property/test_config_fuzz.py $(ARGS)

arrow-fuzz: $(STAMP) ## 2,000 datasets of every Arrow type that Parquet takes: every verb says the same; 6 minutes
	@OMP_NUM_THREADS=1 ARROW_FUZZ_CASES=2000 $(BIN)/python -m pytest -q -s tests/property/test_arrow_types.py $(ARGS)

stream-fuzz: $(STAMP) ## every verb with lost and narrow streams, odd locales and what others left in the environment; an hour
	@OMP_NUM_THREADS=1 STREAM_FUZZ_CASES=25 $(BIN)/python -m pytest -q tests/security/test_streams.py $(ARGS)

shuffle-quality: $(STAMP) ## how well the shuffle mixes 1e8 to 1e10 rows; no data needed, a minute
	@$(BIN)/python -m benchmarks.speed --shuffle

read-memory: $(STAMP) ## the loader's memory over 100 million rows: about three minutes of one core
	@$(BIN)/python -m benchmarks.speed --read 100000000

faults: $(STAMP) ## the figures of docs/reliability.md: 300 kills, 500 flips, every call of a commit; about 40 minutes
	@FAULTS=long $(BIN)/python -m pytest -q -s tests/faults tests/dist/test_hang.py tests/dist/test_stop.py tests/dist/test_guards.py tests/dist/test_resume.py tests/dist/test_lookahead.py $(ARGS)

endurance: $(STAMP) ## 10,000 steps with 20 kills: memory, open files and disk stay flat; about 10 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.figures.endurance $(ARGS)

commit-cost: $(STAMP) ## what checksums add to a commit, and what training waits for one in the background; a minute
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.figures.commit_cost $(ARGS)

slurm-test: $(STAMP) ## torchx on a real two-node Slurm inside of namespaces, kills included; root, apt, 10 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.slurm.lane $(ARGS)

guard-cost: $(STAMP) ## what the guards add to a step, on 1 and 2 ranks; about 3 minutes
	@for ranks in 1 2; do OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.figures.guard_cost --ranks $$ranks $(ARGS); done

gpu-check: $(STAMP) ## every CUDA path beside the CPU, speed and memory, in one table; needs a GPU
	@$(BIN)/python -W ignore -m benchmarks.figures.gpu_check $(ARGS)

plan-memory: $(STAMP) ## memory that dist-mtl plan predicts, beside that of real ranks; about 10 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.figures.plan_memory $(ARGS)

check: $(STAMP) ## lint with ruff
	@$(BIN)/python -m ruff check .

doctor: $(STAMP) ## say what this machine has and what does not fit together
	@$(BIN)/dist-mtl doctor

venv: $(STAMP) ## create .venv and install the lock (nothing to do when it is current)

clean: ## remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for candidate in $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "creating $(VENV) with $$candidate"; \
			"$$candidate" -m venv --clear $(VENV) && exit 0; \
			echo "$$candidate can not create a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2; \
			rm -rf $(VENV); exit 1; \
		fi; \
	done; \
	echo "dist_mtl needs Python 3.11 or newer; tried: $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14)." >&2; \
	echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1

$(STAMP): $(LOCK) pyproject.toml $(OTHER_STACK) | $(BIN)/python
	@rm -f $@
	@$(if $(OTHER_STACK),$(BIN)/python -m pip uninstall --quiet --yes torch fbgemm-gpu fbgemm-gpu-cpu)
	@echo "installing $(LOCK) into $(VENV) (cpu: 1.6 GB, about two minutes)"
	@$(PIP_INSTALL) $(NO_DEPS) -r $(LOCK) || { echo "pip failed; once more" >&2; $(PIP_INSTALL) $(NO_DEPS) -r $(LOCK); }
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true # torch ships templates that do not parse
	@$(BIN)/python -m dist_mtl doctor
	@echo $(STACK) > $@
