"""The command line: `python -m tools.grading SUBMITTED`."""

import sys

if __name__ == "__main__":
    # Here, because the process of the checks imports this file too, and needs nothing of nbgrader.
    from tools.grading.cli import main

    sys.exit(main())
