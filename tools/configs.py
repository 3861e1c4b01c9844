"""The same as `mmseg-tome configs`."""

import sys

from mmseg_tome.cli.configs import main

if __name__ == "__main__":
    sys.exit(main())
