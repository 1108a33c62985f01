"""`backline host`: hosts, the physical servers of a hall."""

from __future__ import annotations

import argparse

from services.hostd import host_init

SUMMARY = "hosts: make a plain Debian 13 one"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline host`."""
    root = argparse.ArgumentParser(prog=prog, description="Hosts: the physical servers of a hall.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    host_init.add_parser(commands)
    return root
