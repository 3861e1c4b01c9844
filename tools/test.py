"""The same as `mmseg-tome test`."""

import sys

from mmseg_tome.cli.test import main

if __name__ == "__main__":
    sys.exit(main())
