"""What `--format web` puts beside the ONNX files; the page itself: tests/cli/test_export_web.py."""

import hashlib
import re
import subprocess
import tarfile
from base64 import b64encode

import pytest

from mmseg_tome.errors import UserError
from mmseg_tome.export import ort_web, web_page

FILES = {"README.md": b"licence", "dist/ort.wasm.min.mjs": b"code"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two small files, as unpacked and as `npm pack` writes it."""
    hashes = {k: b64encode(hashlib.sha512(v).digest()).decode() for k, v in FILES.items()}
    monkeypatch.setattr(ort_web, "SHA512", hashes)
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "dist" / "other.js").write_text("not needed")
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        archive.add(folder, "package")
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_the_package_is_taken_from_a_folder_or_an_archive(package, tmp_path, packed):
    source = tmp_path / "package.tgz" if packed else package
    ort_web.copy_ort_web(tmp_path / "page" / "ort", source)
    found = {file.name: file.read_bytes() for file in (tmp_path / "page" / "ort").iterdir()}
    assert found == {"README.md": b"licence", "ort.wasm.min.mjs": b"code"}


def test_npm_is_asked_where_no_package_is_given(package, tmp_path, monkeypatch):
    def pack(command, cwd, **_):
        assert command[1:3] == ["pack", f"onnxruntime-web@{ort_web.VERSION}"]
        (cwd / "o.tgz").write_bytes((tmp_path / "package.tgz").read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(ort_web.shutil, "which", lambda name: name)
    monkeypatch.setattr(ort_web.subprocess, "run", pack)
    ort_web.copy_ort_web(tmp_path / "ort")
    assert (tmp_path / "ort" / "ort.wasm.min.mjs").read_bytes() == b"code"


def test_without_npm_or_its_registry_one_line_says_what_to_give(package, tmp_path, monkeypatch):
    monkeypatch.setattr(ort_web.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"from npm, which is not here: give .* --ort-web FILE"):
        ort_web.copy_ort_web(tmp_path / "a")
    failed = subprocess.CompletedProcess([], 1, "", "\nnpm error code ENOTFOUND\nmore")
    monkeypatch.setattr(ort_web.shutil, "which", lambda name: name)
    monkeypatch.setattr(ort_web.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"failed \(npm error code ENOTFOUND\): give .* --ort-web"):
        ort_web.copy_ort_web(tmp_path / "b")


def test_another_package_is_refused(package, tmp_path):
    (package / "README.md").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"is not onnxruntime-web@.*README.md has another SHA-512"):
        ort_web.copy_ort_web(tmp_path / "a", package)
    (package / "README.md").unlink()
    with pytest.raises(UserError, match=r"it lacks README.md"):
        ort_web.copy_ort_web(tmp_path / "b", package)
    (tmp_path / "bad.tgz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad.tgz cannot be read"):
        ort_web.copy_ort_web(tmp_path / "c", tmp_path / "bad.tgz")


def test_only_a_page_is_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        web_page.check_folder(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        web_page.check_folder(tmp_path / "notes.txt")
    (tmp_path / web_page.SETTINGS).write_text("{}")
    web_page.check_folder(tmp_path)
    web_page.check_folder(tmp_path / "new")


def test_the_page_names_no_other_host():
    for file in web_page.TEMPLATE.iterdir():
        addresses = re.findall(r"https?://[\w.-]+", file.read_text())
        assert set(addresses) <= {"http://localhost"}, file.name
    assert "connect-src 'self'" in (web_page.TEMPLATE / "index.html").read_text()
