# format, check, test, demo, bench: each installs what it needs, once.

PYTHON ?= python3
UV := $(shell sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock)
BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK_FLAGS ?= --upgrade
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	--custom-compile-command "make lock"
BUILDAH ?= buildah
IMAGE_FLAGS ?=
IMAGE_TAG ?= latest
SBOM := $(BIN)/python .ci/sbom.py --engine $(BUILDAH)
IMAGE := $(BUILDAH) build $(IMAGE_FLAGS) $(if $(BASE),--build-arg BASE=$(BASE))

export HF_HUB_OFFLINE := 1
export NO_ALBUMENTATIONS_UPDATE := 1
export OMP_WAIT_POLICY := PASSIVE
# buildah keeps no layers to build on unless it is told to; docker always does.
export BUILDAH_LAYERS ?= true

.DEFAULT_GOAL := help
.PHONY: help install format check audit test test-slow demo bench docs chart crds lock images sbom cluster-test hooks clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

install: $(INSTALLED)  ## install everything that is pinned in requirements.lock into .venv

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: apt-get install python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "The venv module is needed: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

format: $(INSTALLED)  ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(INSTALLED)  ## format, lint, types, layers, vulnerabilities: nothing is changed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit.py

audit: $(INSTALLED)  ## known vulnerabilities of what is pinned; `make check` asks too
	$(BIN)/python .ci/audit.py

test: $(INSTALLED)  ## the default tests
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(INSTALLED)  ## the tests that take longer
	$(BIN)/pytest -m slow -n 2 --dist worksteal

demo: $(INSTALLED)  ## a small run from S3 to S3: mAP before and after, adapters, reports
	$(BIN)/python examples/demo.py

bench: $(INSTALLED)  ## what is measured, side by side
	$(BIN)/python benchmarks/run.py

docs: $(INSTALLED)  ## write the pages that are generated
	$(BIN)/python docs/generate.py

chart: $(INSTALLED)  ## write what follows from the chart: schema, READMEs, manifests
	$(BIN)/python helm/generate.py

lock: $(INSTALLED)  ## resolve pyproject.toml anew into requirements.lock, and from it what each image takes
	$(LOCK) --extra train --extra operator --extra dev $(LOCK_FLAGS) pyproject.toml --output-file requirements.lock
	$(LOCK) --constraint requirements.lock --extra operator pyproject.toml --output-file requirements-operator.lock
	$(LOCK) --constraint requirements.lock --extra train pyproject.toml --output-file trainer_image/requirements.lock
	printf 'setuptools\nuv\n' | $(LOCK) --constraint requirements.lock - --output-file requirements-build.lock

images:  ## build both images: BUILDAH=docker, IMAGE_FLAGS, BASE=name@sha256:… and IMAGE_TAG are yours to set
	$(IMAGE) -t operator:$(IMAGE_TAG) .
	$(IMAGE) -f trainer_image/Dockerfile -t trainer:$(IMAGE_TAG) .

sbom: $(INSTALLED)  ## list what both built images hold, as CycloneDX in out/sbom
	$(SBOM) operator:$(IMAGE_TAG) --lock requirements-operator.lock --output out/sbom/operator.cdx.json
	$(SBOM) trainer:$(IMAGE_TAG) --lock trainer_image/requirements.lock --output out/sbom/trainer.cdx.json

cluster-test: $(INSTALLED)  ## the whole product on a real cluster on this machine, from nothing; WALKTHROUGH=file keeps what is seen
	tests/e2e/one-machine.sh

crds: $(INSTALLED)  ## write the CRD from its models, and what is made from it
	$(BIN)/python -m teacher_operator.api.crd > crds/teacherfinetunes.finetune.dev.yaml
	$(MAKE) chart

hooks: $(INSTALLED)  ## check every commit before it is made
	$(BIN)/pre-commit install

clean:  ## remove what was installed and made
	rm -rf .venv .state build dist *.egg-info
