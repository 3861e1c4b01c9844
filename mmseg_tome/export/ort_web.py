"""ONNX Runtime Web, from npm or from where the user has it, checked before a page is given it."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path

from mmseg_tome.errors import UserError, some

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"

SHA512 = {
    "README.md":
    "mZpmPN5bRjRiS5HZghAHrj3l7XrqIBX+mGOO4VTU4r9rsbOClQYOyEubDKEKJPptcwF3QHAU6jwbXKstzjqXTw==",
    "dist/ort.wasm.min.mjs":
    "AnefQglyknuf4QnoyL8HFb54s1grWx7q6F6v2UZRr7RxVbsJeXd/k6siiXj1mlkQmpyHEnDIBJzx1Bta3J3ZCg==",
    "dist/ort-wasm-simd-threaded.mjs":
    "IboQh0Pwb+2CvUlaEljlBVLJWlFfGUCxCquU6kjywgW+qj9+DZtJYSU9pueGY4A4vT2W5rQ8Zt4CNNIDL8Kf1g==",
    "dist/ort-wasm-simd-threaded.wasm":
    "Gt7e1iIDIZ/PXEhM/OVleqWHVom0kEI/hs8cod0crXcV9jDGM39B23HuQnlOOgDOC3x4k5pxIgtdgzaL9up3MA==",
    "dist/ort.webgpu.min.mjs":
    "/sEakMu9A2SbDy5BCcyT/nP/5PAEFLzjJhGuy8zbSeBEl4W1MiWnHxlrJaS84NlwaAnxOeqqu/4G6J/22ONTEw==",
    "dist/ort-wasm-simd-threaded.asyncify.mjs":
    "YXMrHY/qLXCbjx2bMFQ8gGD97aRndcT9wEw9vlXXdNxx1Ud2kDYlWPkWFN+0t0rnX2FME08r4CTGHxRstogyyA==",
    "dist/ort-wasm-simd-threaded.asyncify.wasm":
    "dzz9I0cmbBIVybKtbu6szu7jbMSzVPJ3E6Oc8PSyoIQx/4F7xVJ2iGz3ko44sLxAiyAAycPEQVtVKHKjCcRddw==",
}  # fmt: skip
"""What a page needs of the package, with hashes in base64, as npm writes them.

WebAssembly alone, and with WebGPU, which takes twice as much; README.md names the licence.
"""


def copy_ort_web(folder: Path, source: Path | None = None) -> None:
    """Put the files of `SHA512` into a folder, without the package's own folders.

    Args:
        folder: Is made.
        source: The package's folder, such as `node_modules/onnxruntime-web`, or the `.tgz` of
            `npm pack`; None asks npm for it.

    Raises:
        UserError: It is neither there nor at npm, or is not `VERSION` byte for byte.
    """
    folder.mkdir(parents=True)
    if source is None:
        with tempfile.TemporaryDirectory() as place:
            _copy(_from_npm(Path(place)), folder)
    else:
        _copy(source, folder)


def _from_npm(place: Path) -> Path:
    npm = shutil.which("npm")
    otherwise = f"give what `npm pack {PACKAGE}` writes with --ort-web FILE"
    if npm is None:
        raise UserError(f"--format web takes {PACKAGE} from npm, which is not here: {otherwise}")
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(place)]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        raise UserError(f"npm pack {PACKAGE} takes more than 10 minutes: {otherwise}") from None
    found = sorted(place.glob("*.tgz"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = f" ({said[0].strip()})" if said else ""
        raise UserError(f"npm pack {PACKAGE} failed{reason}: {otherwise}")
    return found[0]


def _copy(source: Path, folder: Path) -> None:
    try:
        content = _from_folder(source) if source.is_dir() else _from_archive(source)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"--ort-web {source} cannot be read: {error}") from None
    missing = [name for name in SHA512 if name not in content]
    if missing:
        raise UserError(f"--ort-web {source} is not {PACKAGE}: it lacks {some(missing)}")
    for name, data in content.items():
        if b64encode(hashlib.sha512(data).digest()).decode() != SHA512[name]:
            raise UserError(f"--ort-web {source} is not {PACKAGE}: {name} has another SHA-512")
        (folder / Path(name).name).write_bytes(data)


def _from_folder(source: Path) -> dict[str, bytes]:
    return {name: (source / name).read_bytes() for name in SHA512 if (source / name).is_file()}


def _from_archive(source: Path) -> dict[str, bytes]:
    content = {}
    with tarfile.open(source, "r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/")
            if name in SHA512 and member.isfile():
                file = archive.extractfile(member)
                content[name] = file.read() if file else b""
    return content
