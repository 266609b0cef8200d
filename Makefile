# Everything lives in .venv and in BentoML's store; `make help` lists the targets.
PYTHON ?= python3
PORT ?= 3000
FAMILY ?= gradient_boosting
BACKEND ?= docker
IMAGE ?= causeway:latest
CONTAINERIZE_OPTS ?=
export BENTOML_DO_NOT_TRACK ?= true
# OpenMP threads that spin while they wait make training slow on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

VENV := .venv
BIN := $(VENV)/bin
TRAINED := $(VENV)/.trained
# What is served or packed is CAUSEWAY_MODEL where it is set, otherwise the version that `train` made or found.
MODEL := $(if $(CAUSEWAY_MODEL),setup,train)
WITH_MODEL := export CAUSEWAY_MODEL="$${CAUSEWAY_MODEL:-$$(cat $(TRAINED))}"
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup setup-neural setup-dev train port serve prometheus test load-test bench wrk bench-start bench-devices check format lock image image-gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.serving ## create .venv with what training and serving need

setup-neural: $(VENV)/.neural ## add what neural families need: torch, which may be some gigabytes

setup-dev: $(VENV)/.dev ## create .venv with everything, tests and checks included

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, as PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -c 'import os, pathlib, site; pathlib.Path(site.getsitepackages()[0], "causeway.pth").write_text(os.getcwd() + "\n")'

# What `pip install .` would make; but that is for callers, and brings no BentoML along.
$(BIN)/causeway: | $(BIN)/python
	@printf '#!%s\nfrom causeway.cli import main\n\nmain(prog_name="causeway")\n' "$(CURDIR)/$(BIN)/python" > $@ && chmod +x $@

$(VENV)/.serving: requirements/training.txt | $(BIN)/python $(BIN)/causeway
	$(BIN)/python -m pip install --require-hashes -r $<
	@touch $@

$(VENV)/.neural: requirements/neural.txt $(VENV)/.serving | $(BIN)/python
	$(BIN)/python -m pip install -r $<
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/neural.txt | $(BIN)/python $(BIN)/causeway
	$(BIN)/python -m pip install --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -r requirements/neural.txt
	@touch $@ $(VENV)/.serving $(VENV)/.load $(VENV)/.neural

$(VENV)/.load: requirements/load.txt $(VENV)/.serving | $(BIN)/python
	$(BIN)/python -m pip install --require-hashes -r $<
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.serving | $(BIN)/python
	$(BIN)/python -m pip install --require-hashes -r $<
	@touch $@

train: setup $(if $(filter transformer mlp,$(FAMILY)),$(VENV)/.neural) ## train and save a model (FAMILY=gradient_boosting) unless the store has one
	@$(BIN)/python train_and_save.py "$(FAMILY)" --if-missing --tag-file $(TRAINED)

# Without output where PORT is free, to be told otherwise before a minute of training.
port: | $(BIN)/python
	@$(BIN)/python -m causeway.port "$(PORT)"

# The port once more, taken meanwhile: first_call would print the line of whoever answers there.
serve: port $(MODEL) ## train FAMILY if needed and serve it, or CAUSEWAY_MODEL=name:version, on PORT=3000
	@$(BIN)/python -m causeway.port "$(PORT)" && $(WITH_MODEL) && \
	($(BIN)/python -m causeway.first_call --port $(PORT) --while $$$$ &) && exec $(BIN)/bentoml serve --port $(PORT)

# Debian's package, unpacked here: needs no root, and starts nothing. Tests that need it are skipped where it is not.
prometheus: $(VENV)/prometheus

$(VENV)/prometheus: | $(BIN)/python
	@folder=$$(mktemp -d) && (cd "$$folder" && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } \
	  && dpkg-deb -x prometheus_*.deb unpacked) >/dev/null 2>&1 && mv "$$folder/unpacked" $@ \
	  || echo "no Prometheus: there is no apt-get, or it has none" >&2; \
	rm -rf "$$folder"

# Two files at a time, as many of them wait; what measures itself has the machine to itself.
test: setup-dev prometheus ## set up and run the tests
	$(BIN)/python -m pytest tests/load_tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/load_tests

load-test: $(MODEL) $(VENV)/.load ## find where the service tips over (OPTIONS="--dear --repeats 3"; OPTIONS=--help)
	@$(WITH_MODEL) && $(BIN)/python -m load_tests $(OPTIONS)

bench: wrk $(VENV)/.bench ## measure Causeway beside its peers and write README.md's table (Linux, wrk; 17 minutes)
	$(BIN)/python -m load_tests.bench --write

wrk:
	@command -v wrk >/dev/null || { echo "make bench needs wrk, the load generator: apt-get install wrk" >&2; exit 1; }

bench-start: train ## measure clone to prediction, serve to ready, and the simulator
	$(BIN)/python load_tests/studies/start.py

bench-devices: $(VENV)/.neural $(VENV)/.load ## measure networks and trees on this machine's CPU, and its GPU (5 minutes)
	$(BIN)/python -m load_tests.studies.devices --write

check: setup-dev ## lint, types, and generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/readme.py --check
	$(BIN)/python tools/dashboard.py --check

format: setup-dev ## rewrite the code (ruff) and the generated parts of README.md and the dashboard
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/dashboard.py

# Two workarounds. `cd /`: BentoML 1.4.39 refuses a dockerfile_template outside of the working directory, which its own
# temporary copy is (BentoML issue 5566). BUILDAH_FORMAT: podman's default image format has no HEALTHCHECK.
image: $(MODEL) ## build the Bento and its image (BACKEND=docker, IMAGE=causeway:latest)
	$(WITH_MODEL) && bento=$$($(BIN)/bentoml build --output tag | sed -n 's/^__tag__://p') && test -n "$$bento" && cd / && \
	BUILDAH_FORMAT=docker "$(CURDIR)/$(BIN)/bentoml" containerize "$$bento" --backend $(BACKEND) --image-tag $(IMAGE) \
	  --opt label=org.opencontainers.image.revision=$$(git -C "$(CURDIR)" rev-parse HEAD 2>/dev/null || echo unknown) $(CONTAINERIZE_OPTS)

# One Bento, two images: the argument is in deploy/Dockerfile.j2.
image-gpu: ## the same with torch and CUDA, for CAUSEWAY_DEVICE=auto or cuda (IMAGE=causeway:gpu)
	$(MAKE) image IMAGE=$(if $(filter file,$(origin IMAGE)),causeway:gpu,$(IMAGE)) CONTAINERIZE_OPTS="$(CONTAINERIZE_OPTS) --opt build-arg=GPU=1"

lock: setup-dev ## pin requirements/*.txt again, with hashes
	cd requirements && ../$(BIN)/$(LOCK) --upgrade dev.in -o dev.txt
	cd requirements && ../$(BIN)/$(LOCK) load.in -c dev.txt -o load.txt
	cd requirements && ../$(BIN)/$(LOCK) training.in -c dev.txt -o training.txt
	cd requirements && ../$(BIN)/$(LOCK) serving.in -c dev.txt -o serving.txt
	cd requirements && ../$(BIN)/$(LOCK) bench.in -c dev.txt -o bench.txt
	cd requirements && for extra in neural gpu; do \
	  ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --upgrade $$extra.in -c dev.txt \
	  | grep -vE '^(cuda|nvidia|triton)' > $$extra.txt; done

clean: ## remove .venv and caches (not the model store)
	rm -rf $(VENV) build causeway.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
