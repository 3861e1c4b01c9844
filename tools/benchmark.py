"""The same as `mmseg-tome benchmark`."""

import sys

from mmseg_tome.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
