# make demo   exports the bundled checkpoint, proves parity and draws images: build/demo/
# make test   lint, types and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOLDERS := aim export runtime plugins cli
SECOND_HALF := tests/golden tests/kernels tests/plugins tests/unit
READY := $(VENV)/ready

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/aim-edge demo --out build/demo

# The aarch64 CUDA runtime lets the tests link for a Jetson; where it cannot be had they say that they did not run.
test: lint
	@# In two halves that take about as long, side by side, each on one thread: threads that wait in loops would take the
	@# other half's core. The output of the second one comes last.
	AIM_CUDART="$$(bash plugins/scripts/fetch_aarch64_cudart.sh build/aarch64)"; export AIM_CUDART OMP_NUM_THREADS=1 AIM_EDGE_ORT_THREADS=1; mkdir -p build; \
	$(BIN)/python -m pytest -p no:cacheprovider $(SECOND_HALF) > build/second_half.log 2>&1 & second=$$!; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(SECOND_HALF)); first=$$?; \
	wait $$second; second=$$?; cat build/second_half.log; [ $$first = 0 ] && [ $$second = 0 ]

lint: $(READY)
	$(BIN)/ruff check
	@# mypy can't follow setuptools' mapping of folders to aim_edge.*, so it reads a tree of links.
	@mkdir -p build/typing/aim_edge
	@for folder in $(FOLDERS); do ln -sfn $(CURDIR)/$$folder build/typing/aim_edge/$$folder; done
	@ln -sfn $(CURDIR)/package/__init__.py build/typing/aim_edge/__init__.py
	cd build/typing && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p aim_edge

# PyTorch first and by its exact version: left to the resolver, it would take a CUDA build of several GB.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[c2pa,clip,export,ort,dev,plugin-test,tensorrt-rtx]"
	@# It has TensorRT 10.14's headers; its own needs (Triton, a CUDA PyTorch) are of no use here.
	$(BIN)/python -m pip install --quiet --no-deps kernel-lens==2.0.1
	@# It pulls torchvision, of which there is no build for this PyTorch; what is used of it needs none.
	$(BIN)/python -m pip install --quiet --no-deps torch-fidelity==0.4.0
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
