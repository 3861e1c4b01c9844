"""The same as `mmseg-tome explore`."""

import sys

from mmseg_tome.cli.explore import main

if __name__ == "__main__":
    sys.exit(main())
