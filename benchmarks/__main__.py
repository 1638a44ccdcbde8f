"""``python -m benchmarks NAME``: one benchmark of this folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import sbml

COMMANDS = {"sbml": sbml.main}


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark named first; the rest is its own."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"python -m benchmarks NAME; NAME is one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
