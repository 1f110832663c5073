# The two commands: `make demo` generates text over a paged KV cache, `make check` runs every test.
# Both set everything up first (Debian 12, as root; elsewhere they say what is missing).
BUILD ?= build
PYTHON := .venv/bin/python
PROMPT ?= The cache holds
GENERATE_FLAGS ?= --samples 2 --temperature 0.6 --seed 1

.PHONY: help setup setup-all build demo check test format golden bindings clean

help:
	@echo "make demo    set up, build, generate text over a paged KV cache (PROMPT='...')"
	@echo "make check   set up, build, run every test"
	@echo "make build   build into $(BUILD)/   make test: the tests again   make format: clang-format"
	@echo "make bindings  declarations, stubs, docs/ops.md from the built library's table"

setup:
	@tools/setup.sh demo
setup-all:
	@tools/setup.sh check

# cmake finds nvcc on PATH or in /usr/local/cuda, and says so when it does not.
build:
	@cmake -S . -B $(BUILD) -G Ninja $(CMAKE_FLAGS)
	@cmake --build $(BUILD)

demo: setup
	@$(MAKE) --no-print-directory build CMAKE_FLAGS="-DKVOPS_TESTS=OFF -DKVOPS_HIP=OFF $(CMAKE_FLAGS)" BUILD=build-demo
	KVOPS_LIBRARY=build-demo/libkvops.so $(PYTHON) examples/generate "$(PROMPT)" $(GENERATE_FLAGS)

check: setup-all build test

test:
	@tools/run_tests.py $(BUILD)

format:
	@python3 tools/house.py --format --fix

# What follows from the table and the headers: declarations, stubs, docs/ops.md.
bindings:
	$(PYTHON) tools/bindgen.py --library $(BUILD)/libkvops.so
	$(PYTHON) tools/opsdoc.py --library $(BUILD)/libkvops.so

golden:
	$(PYTHON) tests/golden/generate/all.py

clean:
	rm -rf build build-demo
