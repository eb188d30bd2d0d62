"""The command line. `lattica --help` lists the commands; data goes to stdout, talk to stderr."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its status."""
    from ._app import run  # what `import lattica.cli` must not cost

    run()
