# What a developer or CI asks for. Each target does its own set-up on a fresh Debian or Ubuntu that has git and make.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
export PATH := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/reconciled-tools/bin:$(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
# What is built once and thrown away needs no notes for the next build.
ifdef CI
export CARGO_INCREMENTAL := 0
endif
PROFILE ?= release
# Hosts that run side by side: a few more than cores, since some of their time is waiting.
THREADS ?= 5
SCENARIO ?=
# With EVERY_RELEASE=1 also what is our own doing on either release is tested on both.
EVERY_RELEASE ?=
# Files of scenarios that `make e2e` runs: all there are, or some by name.
SUITES ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
TESTED := $(TARGET)/tested-deb
# The same with points at which the crash tests kill it, and the features that unit tests are built with: one build for both.
MORTAL := $(TARGET)/tested-deb-failpoints

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | column -ts $$'\t'

.PHONY: setup
setup: ## install what build and tests need
	@tests/setup

.PHONY: deb
deb: setup ## build the package; the last line of output is its path
	@PROFILE=$(PROFILE) packaging/build-deb

# The package that lint and e2e look at, built once for both; its path is kept in a file.
.PHONY: tested-deb
tested-deb: setup
	@mkdir -p $(TARGET)
	@PROFILE=ci packaging/build-deb | tee $(TESTED).log
	@realpath "$$(tail -n 1 $(TESTED).log)" >$(TESTED)
	@FEATURES=schema,failpoints PROFILE=ci packaging/build-deb | tee $(MORTAL).log
	@realpath "$$(tail -n 1 $(MORTAL).log)" >$(MORTAL)

.PHONY: test
test: lint unit e2e ## lints, unit tests, and scenarios on both Debian releases (SUITES)

.PHONY: lint
lint: tested-deb ## fmt, clippy, rustdoc, generated files, shellcheck, lintian
	@tests/lint "$$(cat $(TESTED))"

.PHONY: advisories
advisories: ## known holes and yanked versions among dependencies, by cargo deny (asks its database)
	@tests/setup cargo-deny
	@cargo deny --all-features check

.PHONY: unit
unit: setup ## tests that need no host
	@cargo test --profile ci --workspace --exclude reconciled-tests --features schema,failpoints --no-fail-fast
	@cargo test --profile ci -p reconciled-tests --lib --bins --test tidy

.PHONY: e2e
e2e: tested-deb ## scenarios on booted hosts, both releases; SCENARIO=part-of-a-name for some, KEEP_HOSTS=1 to look at failed ones
	@RECONCILED_DEB="$$(cat $(TESTED))" RECONCILED_DEB_FAILPOINTS="$$(cat $(MORTAL))" cargo test --profile ci -p reconciled-tests $(if $(EVERY_RELEASE),--features every-release) --test scenarios -- --test-threads=$(THREADS) $(SUITES:%=%::) $(SCENARIO) | tee $(TARGET)/scenarios.log || \
		{ echo "what failed, in short:"; awk '/panicked at/ { n = 6 } n-- > 0 { print substr($$0, 1, 300) }' $(TARGET)/scenarios.log; exit 1; }

.PHONY: test-releases
test-releases: ## every scenario on each release; make test has one where no program of the release has a part in it
	@$(MAKE) e2e EVERY_RELEASE=1

.PHONY: test-crash
test-crash: tested-deb ## every kill point on each release; make test has the two releases share them
	@RECONCILED_DEB_FAILPOINTS="$$(cat $(MORTAL))" EVERY_POINT=1 cargo test --profile ci -p reconciled-tests --test scenarios -- --test-threads=$(THREADS) crash::

.PHONY: test-planted
test-planted: setup ## bugs planted in the daemon, which the crash tests have to catch
	@tests/planted

.PHONY: demo
demo: ## the story in a terminal: a push goes live, a bad one is refused, a broken one rolled back
	@tests/demo

.PHONY: clean-hosts
clean-hosts: ## destroy every test host, and the images and package mirrors they boot from
	@tests/testhost/testhost clean
