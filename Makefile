# make quickstart   everything from nothing to a trained, evaluated, drawn model
# make demo         a page on this machine to look at the models trained so far
# make docs         the documentation site, build/docs/index.html; a warning is an error
# make tutorial     docs/tutorial.ipynb run anew, its outputs kept; some minutes
# make cards        docs/models.md anew, after a config, a network or a figure has changed
# make test         the test suite; its last line counts what passed and failed; with
#                   DETECTRON2=<checkout> on another detectron2
# make test-machines  what depends on the CPU, once for each kind that this one can emulate
# make test-oldest  the test suite on the oldest versions of pyproject.toml
# make wheel        the package from a wheel in a fresh environment: its commands in an empty folder
# Every target does the set-up it needs. PYTHON=python3.11 chooses the interpreter.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CONFIG := configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml
OUTPUT := output/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick
DATA   := $(or $(DETECTRON2_DATASETS),datasets)
# Of the page.
PORT   ?= 7860
# Written last, so that an interrupted set-up starts over.
READY  := $(VENV)/ready

.DELETE_ON_ERROR:
.PHONY: install quickstart demo docs tutorial cards test test-machines test-oldest wheel lint format clean

install: $(READY)

$(READY): pyproject.toml constraints.txt deepfuse_d2/cli/install_detectron2.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "deepfuse_d2 needs python >= 3.10; give one with make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make environments; on Debian: apt-get install python3-venv"; exit 1; }
	@rm -f $(READY)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python tools/install_detectron2.py
	@touch $(READY)

quickstart: $(READY)
	$(BIN)/python datasets/prepare_minicity.py
	$(BIN)/python train_net.py --config-file $(CONFIG) --resume OUTPUT_DIR $(OUTPUT)
	$(BIN)/python tools/compare_predictions.py --config-file $(CONFIG) \
		--weights $(OUTPUT)/model_final.pth --output $(OUTPUT)/predictions.png
	@echo
	@echo "Data set      $(DATA)/minicity"
	@echo "Model         $(OUTPUT)/model_final.pth"
	@echo "Results       $(OUTPUT)/metrics.json, $(OUTPUT)/inference/"
	@echo "Predictions   $(OUTPUT)/predictions.png"

demo: $(READY)
	$(BIN)/python tools/demo_page.py --port $(PORT)

docs: $(READY)
	$(BIN)/python -W ignore -m sphinx --quiet --fail-on-warning --keep-going --builder html \
		--conf-dir docs/site --doctree-dir build/doctrees . build/docs
	@echo "The site lies in build/docs/index.html"

tutorial: $(READY)
	$(BIN)/python -m benchmarks.tutorial

cards: $(READY)
	$(BIN)/python -W ignore -m benchmarks.model_cards

test: $(READY)
	@$(if $(DETECTRON2),PYTHONPATH=$(abspath $(DETECTRON2))) \
		$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

wheel:
	PYTHON=$(PYTHON) .ci/wheel

# What computes differently on another kind of CPU, or chooses by the kind.
BY_MACHINE := tests/kernels tests/layers tests/inference/test_optimize.py \
	tests/inference/test_fold.py $(addprefix tests/engine/test_, \
	fast_kernels.py mixed_precision.py steps.py threads.py all_switches.py) \
	tests/modeling/test_necks.py
# Environments: no vectors to speak of; AVX2; AVX-512 without bfloat16.
MACHINES := ATEN_CPU_CAPABILITY=default,ONEDNN_MAX_CPU_ISA=SSE41 \
	ATEN_CPU_CAPABILITY=avx2,ONEDNN_MAX_CPU_ISA=AVX2 \
	ONEDNN_MAX_CPU_ISA=AVX512_CORE

test-machines: $(READY)
	@for machine in $(MACHINES); do \
		echo "Emulated: $$machine"; \
		env $$(echo $$machine | tr , ' ') $(BIN)/python -m pytest -q --numprocesses 2 \
			--dist loadfile --disable-warnings $(BY_MACHINE) || exit 1; \
	done

# An environment of its own; uv is what resolves to the oldest versions.
OLDEST        := .venv-oldest
OLDEST_PYTHON ?= $(shell python3.10 -c '' 2> /dev/null && echo python3.10 || echo $(PYTHON))

$(OLDEST)/ready: pyproject.toml deepfuse_d2/cli/install_detectron2.py
	@rm -f $@
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python \
		--resolution lowest-direct --editable '.[dev]'
	$(OLDEST)/bin/python tools/install_detectron2.py
	@touch $@

test-oldest: $(OLDEST)/ready
	$(OLDEST)/bin/python -m pytest --numprocesses 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) build output
