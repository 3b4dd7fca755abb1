"""`python -m portmaster_kext.cli`."""

import sys

from portmaster_kext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
