PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed once per change of the dependencies; `make clean` starts over.
READY := $(VENV)/.ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
HASHED := --require-hashes --no-deps --no-build-isolation --use-pep517
# checkov's pins conflict with ours.
CHECKOV := .checkov/.ready
# A throwaway environment: another Ray over the packages of $(VENV).
RAY := .ray-upgrade
RAY_TESTS = $(shell grep -o 'tests/[a-z0-9_/]*\.py' docs/ray.md | sort -u)

# Set in some containers, it would have every process that tests start compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-modalities demo-images bench-quality monitor test unit check bench soak gpu format setup lock ray-upgrade clean

demo: $(READY)  ## data -> train -> artifact -> endpoint -> samples, a few minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.demo

demo-modalities: $(READY)  ## text, sound and one from another: trained, served together, a quarter of an hour
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.demo_modalities

demo-images: $(READY)  ## autoencoder, generator, upscaler, inpainter of pictures: a quarter of an hour
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.demo_images

monitor: $(READY)  ## Prometheus with our rules for what runs here, or TARGETS="HOST:PORT ..."
	@$(BIN)/python -m k8s.monitor $(TARGETS)

test: $(READY) $(CHECKOV)  ## everything but slow, gpu and bench
	$(BIN)/pytest -q -n 3 --dist loadscope

unit: $(READY)  ## the part without Ray, other processes and artifacts, a minute
	$(BIN)/pytest -q -n 2 --dist loadscope -m "not slow and not gpu and not bench and not cluster and not process"

check: $(READY)  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu: $(READY)  ## checks and figures of a machine with a GPU, six minutes, into docs/gpu.md; DEVICE=cpu rehearses
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.gpu $(DEVICE:%=--device %)

format: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(READY)  ## writes docs/benchmarks.md
	$(BIN)/python -m benchmarks.bench_training
	$(BIN)/python -m benchmarks.bench_quality
	$(BIN)/python -m benchmarks.bench_overheads
	$(BIN)/python -m benchmarks.bench_serving
	$(BIN)/python -m benchmarks.bench_pools
	$(BIN)/python -m benchmarks.bench_autoscaling
	$(BIN)/python -m benchmarks.bench_texts
	$(BIN)/python -m benchmarks.bench_images

bench-quality: $(READY)  ## tables of docs/image-models.md, two hours on two idle cores; continues where it stopped
	$(BIN)/python -m benchmarks.bench_image_models --jobs 2
	$(BIN)/python -m benchmarks.image_model_pictures

soak: $(READY)  ## ten minutes of load while replicas, HAProxy and the disk fail; wants a quiet machine
	$(BIN)/python -m benchmarks.soak

setup: $(READY)

# Nothing is installed whose hash is not in requirements/. torch is the one for CPUs where an index
# has it (PyTorch's own, as PIP_EXTRA_INDEX_URL), else PyPI's, which brings CUDA on Linux.
$(READY): pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/build.txt
	$(PIP) $(HASHED) -r requirements/torch-cpu.txt 2>/dev/null || \
		$(PIP) $(HASHED) -r requirements/torch.txt -r requirements/cuda.txt
	$(PIP) $(HASHED) -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	touch $@

$(CHECKOV): tests/k8s/checkov.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	touch $@

lock:  ## requirements/, constraints.txt and checkov's, after a change of dependencies; UPGRADE="NAME ..."
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	PATH="$(CURDIR)/.lock/bin:$$PATH" .lock/bin/python requirements/lock.py $(UPGRADE:%=--upgrade %)

ray-upgrade: $(READY)  ## the tests that docs/ray.md names, on another Ray: VERSION=2.61.0
	@test -n "$(VERSION)" || { echo "which Ray? make ray-upgrade VERSION=2.61.0" >&2; exit 2; }
	$(BIN)/python -m venv --clear $(RAY)
	packages="import site; print(site.getsitepackages()[0])"; \
		$(BIN)/python -c "$$packages" >"$$($(RAY)/bin/python -c "$$packages")/below.pth"
	$(RAY)/bin/pip install --quiet --require-hashes -r requirements/build.txt
	$(RAY)/bin/pip install --quiet --ignore-installed --no-deps ray==$(VERSION)
	$(RAY)/bin/pip install --quiet "ray[serve,train]==$(VERSION)"
	$(RAY)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	$(RAY)/bin/python -m pytest -q $(RAY_TESTS)

clean:
	rm -rf $(VENV) $(RAY) .lock $(dir $(CHECKOV)) runs artifacts samples build .*_cache *.egg-info
