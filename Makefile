# The developer's and the newcomer's verbs. Everything is run as root on Debian 12 or 13.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Tests start hundreds of our own programs: compiled once, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= /usr/bin/python3
ROLES ?= gw rhfs nfsroot
# More options for pytest, such as --require-all.
PYTEST_OPTIONS ?=
BIN := .venv/bin
# Two at a time: the emulated machines one after the other, and everything else beside them.
PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder
# Debian packages that the host needs; everything else runs from the tools tree.
HOST_PACKAGES := aardvark-dns ca-certificates casync chromium curl dbus-daemon debian-archive-keyring e2fsprogs gcc git iproute2 iptables \
	libnfs-utils libsystemd-dev netavark nftables openssh-client ovmf pamtester pkg-config podman procps python3 python3-dbusmock python3-dev \
	python3-venv qemu-system-x86 rsync runc systemd systemd-container tcpdump util-linux zstd

.PHONY: help setup images lan test test-full bench-build bench-lan bench-netboot bench-publish bench-identity lock clean

help: ## show this help
	@echo "Backline: a hall of diskless machines from reproducible images."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: .venv/.ready ## install what is missing: Debian packages by name, Python packages by hash, into .venv

.venv/.ready: Makefile pyproject.toml requirements/build.txt requirements/dev.txt
	@missing=; for package in $(HOST_PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	    [ "$$(id -u)" = 0 ] || { echo "make setup: run it as root, it has to install:$$missing" >&2; exit 1; }; \
	    echo "setup: installing$$missing"; \
	    apt-get update -q >/dev/null; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing >/dev/null; \
	fi
	@echo "setup: Python packages into .venv"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@pip="$(BIN)/python -m pip --disable-pip-version-check --quiet install"; \
	$$pip --require-hashes -r requirements/build.txt; \
	$$pip --require-hashes --no-build-isolation -r requirements/dev.txt; \
	$$pip --no-build-isolation --no-deps --editable .
	@touch $@

images: setup ## build every image that is missing in the store
	@$(BIN)/build image $(ROLES)

lan: setup images ## a whole hall on this machine, in containers: look around in it, until Ctrl-C
	@$(BIN)/backline lan up

test: setup ## every test but the slow matrices; builds the images it needs
	@$(PYTEST) -m 'not full' $(PYTEST_OPTIONS)

test-full: setup ## every test, the slow matrices too
	@$(PYTEST) $(PYTEST_OPTIONS)

bench-build: setup ## the builder's figures, side by side with plain mkosi
	@$(BIN)/python -m benchmarks.build

bench-lan: setup images ## the harness's figures, side by side with bare systemd-nspawn
	@$(BIN)/python -m benchmarks.lan

bench-netboot: setup images ## figures of mdb, DNS, DHCP and netboot, and of a machine that starts, beside one on a plain NFS tree
	@$(BIN)/python -m benchmarks.netboot

bench-publish: setup images ## figures of publishing, switches, hostd and rollouts, beside rsync, casync and scp
	@$(BIN)/python -m benchmarks.publish

bench-identity: setup ## figures of presence, single sign-on and the firewall with a thousand seats
	@$(BIN)/python -m benchmarks.identity
	@$(BIN)/python -m benchmarks.firewall

lock: setup ## resolve the images' packages and wheels again (commit the result)
	@$(BIN)/build lock --update

clean: ## remove .venv and caches of this clone; the store and the pool stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
