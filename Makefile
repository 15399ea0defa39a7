# Two commands for a newcomer: `make demo` and `make test`. Both set everything up and can be repeated cheaply.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo

.PHONY: demo app test system quick lint docs bench study fuzz integrations peers clean

demo: $(VENV)/.ready-demo  ## explain pictures with the built-in model: a table here, panels and a page in out/demo
	$(BIN)/finercam demo --out $(OUT)

app: $(VENV)/.ready-demo  ## the web app, on this machine only
	$(BIN)/finercam app

test: $(VENV)/.ready-dev  ## all tests but whole systems, in two processes with one thread each; an unexpected skip is a failure
	OMP_NUM_THREADS=1 STRICT_SKIPS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not system"

system: $(VENV)/.ready-dev  ## the tests that start Ray, browsers, a notebook or killed processes, or build the documentation
	OMP_NUM_THREADS=1 STRICT_SKIPS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m system

quick: $(VENV)/.ready-dev  ## without the slow tests: about 92 CPU-seconds over two processes, measured on a busy machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not system"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: $(VENV)/.ready-dev  ## speed and memory against a plain forward pass and the peers
	$(BIN)/python -m benchmarks.engine --out out/bench/engine.json
	$(BIN)/python -m benchmarks.engine --only compiled,small --out out/bench/compiled.json
	if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
	  $(BIN)/python -m benchmarks.engine --only gpu,scorecam,small --out out/bench/gpu.json; fi
	$(BIN)/python -m benchmarks.metrics --out out/bench/metrics.json

docs: $(VENV)/.ready-dev  ## the documentation, into site/
	$(BIN)/mkdocs build --strict --quiet

study: $(VENV)/.ready-dev  ## the tables of docs/evaluation-appendix.md, and what other pages quote of them
	$(BIN)/python -m benchmarks.study --out out/study --write

fuzz: $(VENV)/.ready-dev  ## coverage-guided fuzzing, a minute each (a job of its own: atheris is an extra)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,fuzz]'
	for target in images files contrasts; do $(BIN)/python -m fuzz.$$target --seconds 60 --seed 1 || exit 1; done

integrations:  ## tests against libraries that are too heavy for CI, in an environment of their own
	test -x $(VENV)-integrations/bin/uv || ($(PYTHON) -m venv $(VENV)-integrations && $(VENV)-integrations/bin/python -m pip install --quiet uv)
	$(VENV)-integrations/bin/uv pip install --quiet --python $(VENV)-integrations/bin/python --editable '.[all,test,integrations]'
	OMP_NUM_THREADS=1 $(VENV)-integrations/bin/python -m pytest -m integration

peers: $(VENV)/.ready-dev  ## the tests of pytorch-grad-cam, from its source package, run against our drop-in (minutes)
	$(BIN)/python -m pip download grad-cam==1.5.7 --quiet --no-deps --no-binary :all: --dest out/peers
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.peer_suites grad-cam out/peers/grad_cam-1.5.7.tar.gz

clean:
	rm -rf $(VENV) $(VENV)-integrations out site .pytest_cache .ruff_cache .hypothesis

$(VENV)/.ready-demo: pyproject.toml constraints.txt
	$(call install,all)

$(VENV)/.ready-dev: pyproject.toml constraints.txt
	$(call install,dev)
	@touch $(VENV)/.ready-demo

# uv does the installing: it is quick, and it reads the overrides in pyproject.toml.
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(1)]'
	@touch $@
endef
