"""Renaming of parameters by a table of module names, in both directions."""

import re
from collections.abc import Sequence


class Renaming:
    """A table of module names, ours and theirs.

    Names are templates: `{i}` is a stage counted from 0, `{n}` the same counted from 1, and `{j}` a
    block of the stage. What follows the module's name (`.weight`, `.running_mean`, ...) stays.

    Args:
        table: Pairs of our and their template.
    """

    def __init__(self, table: Sequence[tuple[str, str]]):
        self._to_ours = [(_pattern(theirs), ours) for ours, theirs in table]
        self._to_theirs = [(_pattern(ours), theirs) for ours, theirs in table]

    def to_ours(self, key: str) -> str | None:
        """Our name of their parameter, or None."""
        return _rename(self._to_ours, key)

    def to_theirs(self, key: str) -> str | None:
        """Their name of our parameter, or None."""
        return _rename(self._to_theirs, key)


def _pattern(template: str) -> re.Pattern:
    escaped = re.sub(r"\\{([inj])\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(rf"{escaped}\.(?P<leaf>[a-z_]+)")


def _rename(rules: list[tuple[re.Pattern, str]], key: str) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(key):
            found = match.groupdict()
            stage = int(found["i"]) if "i" in found else int(found.get("n") or 1) - 1
            return f"{template.format(i=stage, n=stage + 1, j=found.get('j'))}.{found['leaf']}"
    return None
