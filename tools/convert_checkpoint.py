"""The same as `mmseg-tome convert`."""

import sys

from mmseg_tome.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
