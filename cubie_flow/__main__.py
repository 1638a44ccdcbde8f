"""``python -m cubie_flow`` and the console script ``cubie-flow``."""

import sys

from cubie_flow.process.python_path import leave_out_current_folder

if __name__ == "__main__":
    # Before anything else is imported, which a file in the current folder could replace.
    leave_out_current_folder()


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
