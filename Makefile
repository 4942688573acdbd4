# Everything a developer and CI run. `make test` and `make check` install what they need.

SHELL := /bin/bash
CARGO ?= cargo

CHAOS_SECONDS ?= 90

# How long each test took, of the last `make test`.
TEST_TIMES := $(abspath $(or $(CARGO_TARGET_DIR),target))/test-times
# Further arguments of its `cargo test`, such as `-- protocol::`.
TEST_ARGUMENTS ?=
TIMED := --config "target.'cfg(all())'.runner=['tests/scripts/timed.sh']"

.PHONY: help demo test chaos matrix check fmt clippy doc config-check deny bench build dist test-tools

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: ## Show the whole thing: three registries, the gateway, login, push, pull, a dead member
	./deploy/demo/demo.sh

build: ## Build the debug binary
	$(CARGO) build --locked

dist: ## Build the binary to ship
	$(CARGO) build --locked --profile dist

test-tools: ## Install what the tests need (Debian packages, python-dxf)
	./tests/scripts/install.sh

test: test-tools ## Run every test, with real registries and real clients, and show the ten that took longest
	@rm -f $(TEST_TIMES)
	TEST_TIMES=$(TEST_TIMES) $(CARGO) test --locked --all-targets $(TIMED) $(TEST_ARGUMENTS); status=$$?; \
	if [ -s $(TEST_TIMES) ]; then echo "The slowest tests, in seconds:"; sort -rn $(TEST_TIMES) | head -n 10; fi; \
	exit $$status

chaos: test-tools ## Kill, freeze, reload and rotate for $(CHAOS_SECONDS) s under docker and skopeo (TIDEGATE_CHAOS_SEED)
	TIDEGATE_CHAOS_SECONDS=$(CHAOS_SECONDS) $(CARGO) test --locked --test it -- chaos:: --nocapture

matrix: ## The fault matrix with four times the cases (TIDEGATE_MATRIX_SEED)
	TIDEGATE_MATRIX_ROUNDS=8 $(CARGO) test --locked --test it -- fault_matrix:: --nocapture

check: fmt clippy doc config-check bench ## Format, lints, documentation, configuration files, benches build

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet

config-check: ## Check the shipped configuration files with the real binary
	$(CARGO) test --locked --quiet --lib config::tests::the_shipped

bench: ## Build the benches (run them with `cargo bench`)
	$(CARGO) bench --locked --no-run --quiet
