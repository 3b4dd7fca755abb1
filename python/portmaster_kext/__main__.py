"""`python -m portmaster_kext`: the command line."""

import sys

from portmaster_kext.cli import main

if __name__ == "__main__":
    sys.exit(main())
