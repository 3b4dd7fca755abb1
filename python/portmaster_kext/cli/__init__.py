"""The command line: `portmaster-kext`."""

from portmaster_kext.cli.main import main

__all__ = ["main"]
