"""The same as `mmseg-tome benchmark-export`."""

import sys

from mmseg_tome.cli.benchmark_export import main

if __name__ == "__main__":
    sys.exit(main())
