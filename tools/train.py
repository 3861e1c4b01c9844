"""The same as `mmseg-tome train`."""

import sys

from mmseg_tome.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
