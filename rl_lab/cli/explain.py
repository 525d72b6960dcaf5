"""`rl-lab train --explain`: what an agent has switched on, and where each of its numbers comes from."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rl_lab.agent import AgentConfig
from rl_lab.columns import aligned, wrapped
from rl_lab.config import field_docs, toml_comments, value_text
from rl_lab.experiment import ExperimentConfig, agent_comments

_WIDEST = 120
"""Columns: on a wider screen lines would only be harder to read."""


def explain(
    config: ExperimentConfig,
    path: Path,
    plain: AgentConfig,
    turned_off: Mapping[str, Mapping[str, object]],
    flags: Collection[str],
) -> Iterator[str]:
    """Lines: how the file at `path` opens, then each hyperparameter, those of switches that are off last.

    `plain` is the agent before switches were `turned_off` (name -> field -> value) and before the hyperparameters in
    `flags` were given.
    """
    agent = config.agent
    width = min(shutil.get_terminal_size((_WIDEST, 0)).columns, _WIDEST)
    on = ", ".join(switch.name for switch in agent.switches_on) or "no switches"
    yield from _paragraph(f"{config.name} on {config.game}: {agent.name} with {on}", width)
    if opening := toml_comments(path)[""]:
        yield ""
        yield from aligned([(line,) for line in opening.splitlines()])

    sources = _sources(plain, agent_comments(path, plain.name)) | _overrides(agent, plain, turned_off, flags)
    rows = {field: (f"  {field}", value_text(value), sources[field]) for field, value in vars(agent).items()}
    widths = [max(len(row[column]) for row in rows.values()) for column in (0, 1)]
    widths.append(max(width - sum(widths) - 4, 20))  # columns are two spaces apart
    for heading, fields in _groups(agent).items():
        yield ""
        yield from _paragraph(heading, width)
        for field in fields:
            yield from aligned(wrapped(rows[field], widths))


def _paragraph(text: str, width: int) -> list[str]:
    return aligned(wrapped((text,), (width,)))


def _sources(plain: AgentConfig, comments: Mapping[str, str]) -> dict[str, str]:
    """Hyperparameter -> the comment beside it in the file; of those that the file leaves out, what the default is."""
    docs = field_docs(type(plain))
    return {
        field: comments[field] or "-" if field in comments else f"default: {docs.get(field, '-')}"
        for field in vars(plain)
    }


def _overrides(
    agent: AgentConfig, plain: AgentConfig, turned_off: Mapping[str, Mapping[str, object]], flags: Collection[str]
) -> dict[str, str]:
    """Hyperparameter -> by what the command line has set it, and what it was."""
    causes = {field: f" (--without {name})" for name, fields in turned_off.items() for field in fields}
    causes |= dict.fromkeys(flags, "")
    found = {}
    for field, cause in causes.items():
        before, now = getattr(plain, field), getattr(agent, field)
        found[field] = f"from the command line{cause}" + (
            "" if before == now else f", in place of {value_text(before)}"
        )
    return found


def _groups(agent: AgentConfig) -> dict[str, list[str]]:
    """Heading -> hyperparameters: of each switch that is on, of the agent itself, of all that is off; each in one."""
    headings = {switch: f"{switch.name} ({switch.paper})" for switch in agent.switches_on}
    off = [switch for switch in agent.switches if switch not in headings]
    itself, all_off = f"{agent.name} itself", f"off: {', '.join(switch.name for switch in off)}"
    # A choice between several, such as that of a network, is the agent's own where no switch has taken it.
    owners = {field: all_off for switch in off for field in (switch.settings if switch.on else switch.fields)}
    owners |= {field: heading for switch, heading in headings.items() for field in switch.fields}
    groups: dict[str, list[str]] = {heading: [] for heading in (*headings.values(), itself, all_off)}
    for field in vars(agent):
        groups[owners.get(field, itself)].append(field)
    return {heading: fields for heading, fields in groups.items() if fields}
