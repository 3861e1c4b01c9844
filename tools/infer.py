"""The same as `mmseg-tome infer`."""

import sys

from mmseg_tome.cli.infer import main

if __name__ == "__main__":
    sys.exit(main())
