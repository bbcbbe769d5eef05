# Every target sets up what it needs: the virtual environment, the dependencies, a Consul.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROTOC := $(BIN)/python -m grpc_tools.protoc --proto_path=proxyless/protos=protos
PROTOS := proxyless/protos/shop.proto proxyless/protos/echo.proto

# The Consul that scripts/fetch-consul unpacks comes last: one that is installed wins.
export PATH := $(PATH):$(CURDIR)/.cache/consul/usr/bin
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test oldest check bench protos consul clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) consul ## real servers, a real Consul, real calls: watch where they go
	@$(BIN)/proxyless demo

test: $(READY) consul ## the whole test suite
	@$(BIN)/python -m pytest -q

oldest: consul ## calls, documents and commands, with the oldest dependencies that are allowed
	@PYTHON=$(PYTHON) scripts/test-oldest

check: $(READY) ## style, format, types, and generated code up to date
	@$(BIN)/ruff check --quiet --output-format=concise .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted as ruff does: run $(BIN)/ruff format on the files above"; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out=$$fresh --pyi_out=$$fresh --grpc_python_out=$$fresh $(PROTOS) && \
	diff -rq -x __init__.py -x __pycache__ $$fresh/proxyless/protos proxyless/protos || \
	{ echo "the generated code is not what protos/ says: run make protos"; exit 1; }
	@echo "check: style, format, types and generated code are in order"

bench: $(READY) consul ## what a call costs, against bare grpcio
	@$(BIN)/python -m tests.bench

protos: $(READY) ## generate proxyless/protos from protos/
	@rm -f proxyless/protos/*_pb2*
	@$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

consul: ## find a Consul, or fetch one into .cache/
	@scripts/fetch-consul

clean: ## remove all that make set up
	rm -rf $(VENV) .cache build dist .coverage htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment that a broken install left behind is filled again; a changed pyproject.toml refreshes it.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "proxyless needs Python 3.10 or newer; name one with make PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev,servers,tracers,clients]'
	@touch $@
