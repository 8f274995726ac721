"""The command line: `python -m tools.grading SUBMITTED`."""

import sys

from tools.grading.cli import main

if __name__ == "__main__":  # the process of the checks imports this file, too
    sys.exit(main())
