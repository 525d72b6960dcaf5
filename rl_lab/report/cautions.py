"""What a reader must know before any number: what does not compare, what is left out, what one seed cannot say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from rl_lab.report.results import Run
from rl_lab.report.standings import MAX_PAIRED, Standing
from rl_lab.scores import ScoreTable

_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Any)  # what can be sorted


@dataclass(frozen=True)
class Absent:
    """Runs that belong to what is compared, or lie beside it, and are not shown."""

    unevaluated: Sequence[Path] = ()
    """Begun, without an evaluation."""
    unfinished: Sequence[Path] = ()
    """Of a sweep that is compared: those that have not come to their end, or have not begun."""
    tunes: Sequence[Path] = ()
    """Folders of tunes, whose seeds chose their settings."""
    tuning: Sequence[Path] = ()
    """Runs elsewhere of such seeds."""

    def told(self) -> Iterator[str]:
        """A sentence for each kind, if there are any."""
        if self.unfinished:
            yield f"The sweep is not over; not finished: {_listed([str(directory) for directory in self.unfinished])}."
        yield from left_out(self.tunes, "runs of tunes, whose seeds chose their settings")
        yield from left_out(self.tuning, "runs of seeds that chose their settings")
        yield from left_out(self.unevaluated, "no evaluation yet")


def mixtures(runs: Sequence[Run]) -> list[str]:
    """What keeps runs from being compared, each with the game or the experiment; empty where nothing does."""
    found: list[str] = []
    for game, of_game in grouped(runs, lambda run: run.game):
        firsts: dict[str, Run] = {}
        for run in of_game:
            firsts.setdefault(run.fingerprint, run)
        found += [f"{game}: {_rules_apart(*pair)}" for pair in combinations(firsts.values(), 2)]
    for name, of_name in grouped(runs, lambda run: run.experiment):
        settings = differing([run.settings for run in of_name], leave_out=("game",))
        if settings:
            found.append(f"{name}: settings under one name ({', '.join(settings)})")
    for (game, name, *_), same in grouped(runs, lambda run: (run.game, run.experiment, run.fingerprint, setup(run))):
        seeds = sorted(run.seed for run in same)
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            found.append(f"{game}: runs of one seed of {name} ({', '.join(map(str, twice))})")
    return found


def cautions(runs: Sequence[Run], standing: Standing, table: ScoreTable) -> Iterator[str]:
    """What a reader must know before any number."""
    for mixture in mixtures(runs):
        yield f"Do not compare: {mixture}."
    unfinished = [f"{run.directory} ({run.state})" for run in runs if run.state != "finished"]
    if unfinished:
        yield f"Not finished, evaluations so far count: {_listed(unfinished)}."
    ours = [contender for contender in standing.contenders if contender.reference is None]
    budgets = sorted({contender.frames for contender in ours if contender.frames is not None})
    if len(budgets) > 1:
        yield (
            f"Budgets differ ({_listed([f'{frames:,}' for frames in budgets])} frames): agents of two budgets are "
            "tested against each other at equal frames or hours only."
        )
    single = {c.label: [game for game, cell in c.cells.items() if len(cell.scores) == 1] for c in ours}
    told = [f"{label} in {_listed(games)}" for label, games in single.items() if games]
    if told:
        yield f"One seed, so no interval and no word about chance: {_listed(told)}."
    games = sorted({game for contender in standing.contenders for game in contender.cells})
    for contender in standing.contenders:
        missing = [game for game in games if game not in contender.cells]
        if missing:
            yield f"{contender.label} has no score in {_listed(missing)}: aggregates leave these games out."
    unknown = [game for game in games if game not in table.human]
    if unknown:
        yield f"{table.name} has no human score for {_listed(unknown)}: raw scores only, left out of aggregates."
    complete = {aggregate.label: len(aggregate.normalized) for aggregate in standing.aggregates}
    for contender in ours if standing.common_games else ():
        seeds = {seed for game in standing.common_games for seed in contender.cells[game].seeds}
        have_all = complete.get(contender.label, 0)
        if have_all < len(seeds):
            yield (
                f"{contender.label}: {have_all} of its {len(seeds)} seeds have all {len(standing.common_games)} games; "
                f"{'aggregates are over these' if have_all else 'so it has no aggregates'}."
            )


def untested(standings: Sequence[Standing]) -> Iterator[str]:
    """Which pairs are not tested, in which of the tables, and why."""
    crowded = [standing for standing in standings if len(standing.rivals) > MAX_PAIRED]
    if crowded:
        advice = "give fewer paths to compare them one by one"
        yield f"More than {MAX_PAIRED} contenders: no pair is tested{_in_tables(crowded, standings)}; {advice}."
    for pairs, having in grouped(standings, lambda standing: standing.untested):
        if pairs:
            told = _listed([f"{first} and {second}" for first, second in pairs])
            where = _in_tables(having, standings)
            yield f"Not tested{where}, since no seed of one of the two has all games that both have: {told}."


def left_out(directories: Sequence[Path], reason: str) -> Iterator[str]:
    """One sentence about them, if there are any."""
    if directories:
        yield f"Left out, {reason}: {_listed([str(directory) for directory in directories])}."


def differing(tables: Sequence[Mapping[str, object]], leave_out: Sequence[str]) -> list[str]:
    """The keys whose values are not the same in all."""
    keys = sorted({key for table in tables for key in table} - set(leave_out))
    return [key for key in keys if len({repr(table.get(key)) for table in tables}) > 1]


def setup(run: Run) -> str:
    """The same for all runs of the same settings, whatever their game."""
    return repr(sorted((key, repr(value)) for key, value in run.settings.items() if key != "game"))


def grouped(runs: Iterable[_Item], key: Callable[[_Item], _Key]) -> list[tuple[_Key, list[_Item]]]:
    """By key, in the order of the keys."""
    groups: defaultdict[_Key, list[_Item]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return sorted(groups.items(), key=lambda group: group[0])


def _rules_apart(one: Run, other: Run) -> str:
    """The fields in which two protocols differ."""
    fields = [
        f"{name} {one.rules.get(name)} and {other.rules.get(name)}"
        for name in differing([one.rules, other.rules], leave_out=("name", "evaluation_episodes"))
    ]
    return (
        f"protocols of {one.experiment} ({one.protocol} {one.fingerprint}) and {other.experiment} ({other.protocol} "
        f"{other.fingerprint}): {', '.join(fields) or 'evaluated under other rules than they trained'}"
    )


def _in_tables(some: Sequence[Standing], standings: Sequence[Standing]) -> str:
    """Their titles, or nothing where they are all."""
    return "" if len(some) == len(standings) else f" in {_listed([repr(standing.title) for standing in some])}"


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    shown = names if len(names) <= 6 else names[:5]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
