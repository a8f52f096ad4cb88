"""`python -m bigbigan`, the same as `bigbigan`."""

import sys

from bigbigan.cli import main

if __name__ == "__main__":
    sys.exit(main())
