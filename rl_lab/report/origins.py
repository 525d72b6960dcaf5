"""What runs were made with and by: what all have in common is said once, and what differs in a row each."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rl_lab.report.comparison import Comparison
from rl_lab.report.results import Run
from rl_lab.report.tables import Table

_LONGEST_VALUE = 300


@dataclass(frozen=True)
class Origins:
    """Settings or provenance of several."""

    common: Table
    differing: Table | None
    """None where nothing differs."""


def experiments(comparison: Comparison) -> Origins:
    """Settings and protocol of each experiment."""
    rows: dict[str, dict[str, str]] = {}
    for run in comparison.runs:
        settings = {key: value for key, value in run.settings.items() if key not in ("name", "game")}
        flat = dict(_flat({**settings, "protocol": run.rules}))
        label = run.experiment
        while rows.setdefault(label, flat) != flat:  # other settings under one name: --mixed
            label += " *"
    return _origins("Settings", "experiment", rows)


def provenances(comparison: Comparison) -> Origins:
    """State and provenance of each run."""
    rows = {
        str(run.directory): {"state": run.state, **dict(_flat({**run.provenance, "resumes": _resumes(run)}))}
        for run in comparison.runs
    }
    return _origins("Provenance", "run", rows)


def _origins(title: str, noun: str, rows: Mapping[str, Mapping[str, str]]) -> Origins:
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    values = {key: {row.get(key, "-") for row in rows.values()} for key in keys}
    common = [key for key in keys if len(values[key]) == 1]
    differing = [key for key in keys if len(values[key]) > 1]
    heading = f"{title} of the {noun}" if len(rows) == 1 else f"{title} that all {len(rows):,} {noun}s have in common"
    return Origins(
        Table(heading, ("name", "value"), tuple((key, *values[key]) for key in common)),
        Table(
            f"{title} in which the {len(rows):,} {noun}s differ",
            (noun, *differing),
            tuple((name, *(row.get(key, "-") for key in differing)) for name, row in rows.items()),
        )
        if differing
        else None,
    )


def _flat(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted names and texts. A stranger's file may hold anything."""
    for key, value in table.items():
        match value:
            case dict():
                yield from ((f"{key}.{name}", _text(entry)) for name, entry in value.items())
            case _:
                yield key, _text(value)


def _text(value: object) -> str:
    match value:
        case str():
            text = value
        case bool():
            text = "yes" if value else "no"
        case None:
            text = "not known"
        case list() if all(isinstance(word, str) for word in value):  # a command
            text = shlex.join(value)
        case _:
            text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}\N{HORIZONTAL ELLIPSIS}"


def _resumes(run: Run) -> str:
    """Where the run went on, and what was not as before."""
    resumes = run.provenance.get("resumes", [])
    if not isinstance(resumes, list):
        return _text(resumes)
    return "; ".join(_resume(run, resume) for resume in resumes) or "none"


def _resume(run: Run, resume: object) -> str:
    if not isinstance(resume, dict):
        return _text(resume)
    changed = [key for key in resume if key not in ("command", "at_steps") and resume[key] != run.provenance.get(key)]
    return f"at {_text(resume.get('at_steps'))} steps" + (f", with another {', '.join(changed)}" if changed else "")
