"""The same as `mmseg-tome reproduce`."""

import sys

from mmseg_tome.cli.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
