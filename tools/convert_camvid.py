"""The same as `mmseg-tome convert-camvid`."""

import sys

from mmseg_tome.cli.convert_camvid import main

if __name__ == "__main__":
    sys.exit(main())
