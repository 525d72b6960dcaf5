"""`rl-lab train --explain`: an experiment field by field, and where each number comes from."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rl_lab.agent import AgentConfig
from rl_lab.columns import aligned, wrapped
from rl_lab.config import field_docs, toml_comments, value_text
from rl_lab.experiment import ExperimentConfig, comments_beside

_WIDEST = 120
"""Columns: on a wider screen lines would only be harder to read."""


def explain(
    config: ExperimentConfig,
    path: Path,
    plain: ExperimentConfig,
    turned_off: Mapping[str, Mapping[str, object]],
    flags: Collection[str],
) -> Iterator[str]:
    """Lines: how the file at `path` opens, then the experiment, its protocol and its agent field by field, those of the
    agent's switches that are off last.

    `plain` is the experiment before switches were `turned_off` (name -> field -> value) and before the fields in
    `flags`, such as agent.n_step, were given.
    """
    width = min(shutil.get_terminal_size((_WIDEST, 0)).columns, _WIDEST)
    on = ", ".join(switch.name for switch in config.agent.switches_on) or "no switches"
    yield from _paragraph(f"{config.name} on {config.game}: {config.agent.name} with {on}", width)
    if opening := toml_comments(path)[""]:
        yield ""
        yield from _paragraph(opening, width)

    comments = comments_beside(path, agent=plain.agent.name, keeps_protocol="protocol.name" not in flags)
    values = config.values()
    sources = _sources(plain, comments) | _overrides(values, plain.values(), _causes(comments, turned_off, flags))
    for heading, keys in _groups(config).items():
        yield ""
        yield from _paragraph(heading, width)
        yield from _table([(f"  {key.split('.')[-1]}", value_text(values[key]), sources[key]) for key in keys], width)


def _paragraph(text: str, width: int) -> list[str]:
    """The lines of the text, filled anew where one is too long."""
    lines = text.splitlines()
    return aligned([(line,) for line in lines] if len(max(lines, key=len)) <= width else wrapped((text,), (width,)))


def _table(rows: Sequence[tuple[str, str, str]], width: int) -> Iterator[str]:
    """Lines of field, value and source, of which the last is wrapped."""
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    widths.append(max(width - sum(widths) - 4, 20))  # columns are two spaces apart
    for row in rows:
        yield from aligned(wrapped(row, widths))


def _sources(plain: ExperimentConfig, comments: Mapping[str, str]) -> dict[str, str]:
    """Field -> the comment beside it in the file; of those that the file leaves out, what the default is."""
    docs = field_docs(ExperimentConfig) | {f"agent.{name}": doc for name, doc in field_docs(type(plain.agent)).items()}
    defaults = {
        key: f"{plain.protocol.name}'s" if key.startswith("protocol.") else f"default: {docs.get(key, '-')}"
        for key in plain.values()
    }
    return {key: (comments[key] or "-") if key in comments else default for key, default in defaults.items()}


def _causes(
    comments: Mapping[str, str], turned_off: Mapping[str, Mapping[str, object]], flags: Collection[str]
) -> dict[str, str]:
    """Field that the command line has set -> by which flag, in brackets, where that is not its own."""
    causes = {}
    if "protocol.name" in flags:
        causes["evaluation_episodes"] = " (--protocol)"
    if "name" not in comments:  # another agent's experiment has a name of its own
        causes["name"] = " (--agent)"
    if turned_off:
        causes["name"] = " (--without)"
    causes |= {f"agent.{field}": f" (--without {name})" for name, fields in turned_off.items() for field in fields}
    return causes | dict.fromkeys(flags, "")


def _overrides(values: Mapping[str, object], before: Mapping[str, object], causes: Mapping[str, str]) -> dict[str, str]:
    """Field -> by what the command line has set it, and what it was."""
    return {
        key: f"from the command line{cause}"
        + ("" if before[key] == values[key] else f", in place of {value_text(before[key])}")
        for key, cause in causes.items()
    }


def _groups(config: ExperimentConfig) -> dict[str, list[str]]:
    """Heading -> fields: of the experiment, of the protocol, and the agent's."""
    own: dict[str, list[str]] = {"": [], "protocol": []}
    for key in config.values():
        part = key.rpartition(".")[0]
        if part in own:
            own[part].append(key)
    return {"experiment": own[""], f"protocol {config.protocol.label}": own["protocol"], **_agent_groups(config.agent)}


def _agent_groups(agent: AgentConfig) -> dict[str, list[str]]:
    """Heading -> fields: of each switch that is on, of the agent itself, of all that is off; each in one."""
    headings = {switch: f"{switch.name} ({switch.paper})" for switch in agent.switches_on}
    off = [switch for switch in agent.switches if switch not in headings]
    itself, all_off = f"{agent.name} itself", f"off: {', '.join(switch.name for switch in off)}"
    # A choice between several, such as that of a network, is the agent's own where no switch has taken it.
    owners = {field: all_off for switch in off for field in (switch.settings if switch.on else switch.fields)}
    owners |= {field: heading for switch, heading in headings.items() for field in switch.fields}
    groups: dict[str, list[str]] = {heading: [] for heading in (*headings.values(), itself, all_off)}
    for field in vars(agent):
        groups[owners.get(field, itself)].append(f"agent.{field}")
    return {heading: keys for heading, keys in groups.items() if keys}
