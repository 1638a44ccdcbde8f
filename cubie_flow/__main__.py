"""``python -m cubie_flow`` and the console script ``cubie-flow``."""

import sys

from cubie_flow.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
