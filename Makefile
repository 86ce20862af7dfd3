PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed once per change of the dependencies; `make clean` starts over.
READY := $(VENV)/.ready
# checkov's pins conflict with ours.
CHECKOV := .checkov/.ready

.PHONY: demo demo-modalities monitor test unit check bench soak format setup clean

demo: $(READY)  ## data -> train -> artifact -> endpoint -> samples, a few minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.demo

demo-modalities: $(READY)  ## text, sound and one from another: trained, served together, a quarter of an hour
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.demo_modalities

monitor: $(READY)  ## Prometheus with our rules for what runs here, or TARGETS="HOST:PORT ..."
	@$(BIN)/python -m k8s.monitor $(TARGETS)

test: $(READY) $(CHECKOV)  ## everything but slow, gpu and bench
	$(BIN)/pytest -q

unit: $(READY)  ## the part that starts no Ray and no other process, a minute or two
	$(BIN)/pytest -q -m "not slow and not gpu and not bench and not cluster and not process"

check: $(READY)  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(READY)  ## writes docs/benchmarks.md
	$(BIN)/python -m tests.bench.bench_training
	$(BIN)/python -m tests.bench.bench_quality
	$(BIN)/python -m tests.bench.bench_overheads
	$(BIN)/python -m tests.bench.bench_serving
	$(BIN)/python -m tests.bench.bench_pools
	$(BIN)/python -m tests.bench.bench_autoscaling
	$(BIN)/python -m tests.bench.bench_texts
	$(BIN)/python -m tests.bench.bench_images

soak: $(READY)  ## ten minutes of load while replicas are killed; wants a quiet machine
	$(BIN)/python -m tests.bench.soak

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,serve,s3,hf,dev]'
	touch $@

$(CHECKOV): tests/k8s/checkov.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:
	rm -rf $(VENV) $(dir $(CHECKOV)) runs artifacts samples build .*_cache *.egg-info
