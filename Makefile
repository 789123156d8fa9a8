# format, check, test, demo, bench, bench-gpu: each installs what it needs, once.

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

# One more than the cores of a small machine: tests of processes and of the operator wait a lot.
TEST_PROCESSES ?= 3
# Unit tests that import no model library (four seconds a process) and ask no S3 server.
FAST := $(addprefix tests/unit/,augmentation chart cli config dataset evaluation labelling operator storage) \
	$(addprefix --ignore=tests/unit/,cli/test_exit_codes.py cli/test_overwrite.py cli/test_result.py cli/test_validate_is_training.py \
	dataset/test_class_name_checks.py dataset/test_exif_orientation.py dataset/test_image_digest.py \
	dataset/test_validate.py evaluation/test_retention.py operator/test_imports.py) \
	--deselect=tests/unit/dataset/test_bad_data.py::test_random_damage_is_refused_or_counted

export HF_HUB_OFFLINE := 1
export NO_ALBUMENTATIONS_UPDATE := 1
export OMP_WAIT_POLICY := PASSIVE
export NO_MKDOCS_2_WARNING := 1
# buildah caches layers only with this variable; docker always does.
export BUILDAH_LAYERS ?= true

.DEFAULT_GOAL := help
.PHONY: help install format check audit test test-fast test-slow demo bench bench-gpu docs chart crds lock images wheel sbom cluster-test hooks clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(INSTALLED)  ## install the pinned packages of requirements.lock into .venv

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: apt-get install python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "The venv module is needed: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

format: $(INSTALLED)  ## format the code and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(INSTALLED)  ## check format, lint rules, types, layers, links of the docs and known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict
	$(BIN)/python .ci/audit.py

audit: $(INSTALLED)  ## list known vulnerabilities of the pinned packages, as `make check` does
	$(BIN)/python .ci/audit.py

test: $(INSTALLED)  ## run the default tests
	$(BIN)/pytest -m "not slow" -n $(TEST_PROCESSES) --dist worksteal

test-fast: $(INSTALLED)  ## run unit tests without models and S3, for a first answer
	$(BIN)/pytest -m "not slow and not s3" -n 2 --dist worksteal $(FAST)

test-slow: $(INSTALLED)  ## run the tests that take longer than a minute
	$(BIN)/pytest -m slow -n 2 --dist worksteal

demo: $(INSTALLED)  ## from labelled images to a small model for a device, from S3 to S3: AP, adapters, reports, artifacts
	$(BIN)/python examples/demo.py

bench: $(INSTALLED)  ## run the benchmarks
	$(BIN)/python benchmarks/run.py

bench-gpu: $(INSTALLED)  ## measure on a GPU: steps, memory, data loading, bfloat16; ten minutes, no downloads
	$(BIN)/python benchmarks/gpu.py

docs: $(INSTALLED)  ## write the generated pages and build the site into site/; a broken link fails
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

chart: $(INSTALLED)  ## write the files that are generated from the chart: schema, README, manifests
	$(BIN)/python helm/generate.py

lock: $(INSTALLED)  ## resolve pyproject.toml into requirements.lock, and take the locks of the images from it
	$(LOCK) --extra train --extra optimize --extra operator --extra dev --extra docs $(LOCK_FLAGS) pyproject.toml --output-file requirements.lock
	$(LOCK) --constraint requirements.lock --extra operator pyproject.toml --output-file requirements-operator.lock
	$(LOCK) --constraint requirements.lock --extra train pyproject.toml --output-file trainer_image/requirements.lock
	$(LOCK) --constraint requirements.lock --extra train --extra optimize --no-emit-package triton pyproject.toml --output-file optimizer_image/requirements.lock
	printf 'setuptools\nuv\n' | $(LOCK) --constraint requirements.lock - --output-file requirements-build.lock

images:  ## build the images; optional: BUILDAH=docker, IMAGE_FLAGS, BASE=name@sha256:…, IMAGE_TAG
	$(IMAGE) -t operator:$(IMAGE_TAG) .
	$(IMAGE) -f trainer_image/Dockerfile -t trainer:$(IMAGE_TAG) .
	$(IMAGE) -f optimizer_image/Dockerfile -t optimizer:$(IMAGE_TAG) .

wheel: $(INSTALLED)  ## build the wheel into dist
	$(BIN)/uv build --quiet --wheel --build-constraints requirements-build.lock --require-hashes --out-dir dist .

sbom: $(INSTALLED)  ## write bills of materials (CycloneDX) of the built images to out/sbom
	$(SBOM) operator:$(IMAGE_TAG) --lock requirements-operator.lock --output out/sbom/operator.cdx.json
	$(SBOM) trainer:$(IMAGE_TAG) --lock trainer_image/requirements.lock --output out/sbom/trainer.cdx.json
	$(SBOM) optimizer:$(IMAGE_TAG) --lock optimizer_image/requirements.lock --output out/sbom/optimizer.cdx.json

cluster-test: $(INSTALLED)  ## install and run everything on a real cluster on this machine; WALKTHROUGH=file records it
	tests/e2e/one-machine.sh

crds: $(INSTALLED)  ## write the CRD from its models, and the files generated from it
	$(BIN)/python -m teacher_operator.api.crd > crds/teacherfinetunes.finetune.dev.yaml
	$(BIN)/python -m teacher_operator.api.crd platform-fields > engine/platform_fields.new
	mv engine/platform_fields.new engine/platform_fields.py
	$(MAKE) chart

hooks: $(INSTALLED)  ## install the pre-commit hooks
	$(BIN)/pre-commit install

clean:  ## remove the virtual environment and build outputs
	rm -rf .venv .state build dist site *.egg-info
