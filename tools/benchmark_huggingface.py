"""The same as `mmseg-tome benchmark-huggingface`."""

import sys

from mmseg_tome.cli.benchmark_huggingface import main

if __name__ == "__main__":
    sys.exit(main())
