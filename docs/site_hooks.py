"""What the site has beside the pages of this folder: the repository's own pages and `--help`."""

import ast
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages of the repository's root, and where the site has them."""

TOP_LEVEL = "<!-- every name of mmseg_tome -->"
HELP = "<!-- every command's help -->"
LINK = re.compile(r"\[([^\[\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)


def move_links(text: str, folder: str, page: str) -> str:
    """Make a page's links, relative to a folder of the repository, ones of the site.

    Args:
        text: Markdown.
        folder: Where its source lies, relative to the repository's root.
        page: Where the site has it, relative to the site's root.

    Returns:
        The same, links to files that the site has not got reduced to their words.
    """

    def move(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if target.startswith("docs/"):
            place = target.removeprefix("docs/")
        elif target in PAGES:
            place = PAGES[target]
        elif (ROOT / target).is_file():
            place = target
        else:
            return match[1]
        place = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"[{match[1]}]({place}{match[3] or ''})"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(move, part) for part in parts)


def on_files(files, config):
    """Add the root's pages, and the files of the repository that pages link to."""
    for source, page in PAGES.items():
        text = move_links((ROOT / source).read_text(encoding="utf-8"), "", page)
        files.append(File.generated(config, page, content=text))
    for path in [*(ROOT / page for page in PAGES), *(ROOT / "docs").rglob("*.md")]:
        for match in LINK.finditer(FENCE.sub("", path.read_text(encoding="utf-8"))):
            target = (path.parent / match[2]).resolve()
            name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
            known = name.startswith("docs/") or name in PAGES or files.get_file_from_path(name)
            if target.is_file() and not known:
                files.append(File.generated(config, name, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Move links that leave this folder; put each command's `--help` on the page of commands."""
    uri = page.file.src_uri
    if uri not in PAGES.values():
        markdown = move_links(markdown, posixpath.join("docs", posixpath.dirname(uri)), uri)
    if HELP in markdown:
        markdown = markdown.replace(HELP, helps())
    if TOP_LEVEL in markdown:
        markdown = markdown.replace(TOP_LEVEL, top_level())
    return markdown


def top_level() -> str:
    """What `mmseg_tome` gives by name, each where it is defined."""
    tree = ast.parse((ROOT / "mmseg_tome" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_LAZY":
            names = ast.literal_eval(node.value)
            return "\n".join(f"::: {module}.{name}\n" for name, module in names.items())
    raise PluginError("mmseg_tome/__init__.py has no _LAZY")


def helps() -> str:
    """A section for each command, with what `--help` says; torch is not needed for that."""
    sections = []
    for command in re.findall(r"^  ([a-z][a-z-]+)  ", run_help(), re.M):
        sections.append(f"## {command}\n\n```text\n{run_help(command).strip()}\n```\n")
    if not sections:
        raise PluginError("mmseg-tome --help lists no command")
    return "\n".join(sections)


def run_help(*command: str) -> str:
    """What `mmseg-tome COMMAND --help` prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "92", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mmseg_tome", *command, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    if done.returncode:
        raise PluginError(f"mmseg-tome {' '.join(command)} --help failed: {done.stderr}")
    return done.stdout
