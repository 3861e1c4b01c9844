"""What would run, as text: the commands, what they need, and where to get what is not there."""

from __future__ import annotations

from collections.abc import Sequence

from . import plan, requirements, running
from .plan import Row, Settings
from .tables import Table


def text(table: Table, settings: Settings, rows: list[Row], steps: Sequence[str]) -> str:
    """The plan for the named steps of some rows."""
    needed = plan.needs_of(rows, steps)
    lines = [table.title, f"work dir: {settings.work_dir}", "", "needed:"]
    lines += _needed(needed) if needed else ["  nothing, all is done"]
    prefix = "".join(f"{k}={v} " for k, v in running.visible_gpus(settings.device).items())
    for row in rows:
        lines += ["", f"{row.name}:"]
        for step in (step for step in row.steps if step.name in steps):
            lines.append(f"  {step.name}{_status(row, step)}: {prefix}{step.text()}")
            if step.written and not step.written[0].exists():
                lines.append("    (that config, the row's with your options, is written then)")
    missing = len(requirements.missing(needed))
    return "\n".join([*lines, "", f"{missing or 'nothing'} missing"])


def _needed(needed: list[requirements.Requirement]) -> list[str]:
    lines = [f"  {item.status:8} {item.place}: {item.note or item.detail}" for item in needed]
    absent = [item for item in needed if item.status != requirements.THERE]
    for get in dict.fromkeys(item.get for item in absent):
        places = [item.place for item in absent if item.get == get]
        lines += [f"  get {get}", f"      -> {', '.join(places)}"]
    return lines


def _status(row: Row, step: plan.Step) -> str:
    if row.is_done(step):
        return " (done)"
    return " (changed)" if row.has_changed(step) else ""
