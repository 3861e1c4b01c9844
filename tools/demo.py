"""The same as `mmseg-tome demo`."""

import sys

from mmseg_tome.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
