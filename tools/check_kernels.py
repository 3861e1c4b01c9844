"""The same as `mmseg-tome check-kernels`."""

import sys

from mmseg_tome.cli.check_kernels import main

if __name__ == "__main__":
    sys.exit(main())
