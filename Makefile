# make paper   the reproduction on the embedded corpus, from a clone to the report
# make test    everything CI wants
BIN := .venv/bin
PY := $(BIN)/python
export PYDEVD_DISABLE_FILE_VALIDATION := 1
SKIP := $(if $(filter Linux,$(shell uname)),,--skip_file_re '^[_.]|^02_flow_gpu')  # Triton is for Linux
HUSH := PYTHONWARNINGS=ignore:resource_tracker:UserWarning  # joblib tidies up after a notebook's process
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help env dev paper test test-slow lab docs bench publish export clean-notebooks

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile; echo "also: test-slow lab docs bench publish export"

env:
	@sh .ci/env.sh base

dev:
	@sh .ci/env.sh dev

paper: env
	@$(BIN)/mfdan reproduce

test: dev
	@$(PY) tests/guards.py
	@$(BIN)/ruff check --quiet .
	@OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(HUSH) $(BIN)/nbdev_test --n_workers 2 --pause 0 --do_print $(SKIP)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" --durations=10 $(TWO)

test-slow: dev
	@$(PY) -m pytest -m slow --durations=10

lab: dev
	@$(PY) -m jupyterlab nbs

export: dev
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(PY) .ci/readme.py

docs:
	@sh .ci/env.sh docs
	@$(PY) .ci/docs.py

bench: env
	@$(BIN)/mfdan reproduce --only speed scaling

publish: env
	@$(BIN)/mfdan publish
