#!/usr/bin/env bash
# Install MMPose 1.3.2 beside either mm stack: tools/install_mmpose.sh [PYTHON]
#
# A plain `pip install mmpose` fails: it requires chumpy, which does not build and which nothing
# imports, and a wheel of xtcocotools that was built for numpy 1. So xtcocotools is compiled here
# and the few requirements that SegFormer's pose models use are named.
set -euo pipefail

python=${1:-python3}
install=("$python" -m pip install --quiet --disable-pip-version-check)
here=$(cd "$(dirname "$0")" && pwd)

"${install[@]}" json_tricks munkres six cython setuptools wheel
# Built with what is installed here, so that pip 26 takes no constraints for a build's own packages.
if ! env -u PIP_BUILD_CONSTRAINT PYTHONPATH="$here/python313" "${install[@]}" --no-cache-dir --no-deps --no-build-isolation \
    --no-binary xtcocotools xtcocotools==1.14.3; then
    echo "warning: pose models will not run: xtcocotools could not be built, as pip says above. It" >&2
    echo "         needs a C compiler and Python's headers (on Debian: apt install build-essential" >&2
    echo "         python3-dev). Then: $0 $python" >&2
    exit 0
fi
"${install[@]}" --no-deps mmpose==1.3.2
