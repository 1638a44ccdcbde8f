"""``python -m cubie_flow`` and the console script ``cubie-flow``."""

import sys


def main() -> int:
    """Run the command line of the process and return its exit code."""
    try:
        from cubie_flow.cli.app import main as run
    except KeyboardInterrupt:
        print("cubie-flow: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
