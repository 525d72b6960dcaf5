"""A comparison in a few sentences, which claim no more than its tables do."""

from __future__ import annotations

from collections.abc import Iterator

from rl_lab.report.cautions import grouped
from rl_lab.report.comparison import Comparison
from rl_lab.report.standings import Estimate, Pair, Standing, counted

_MAX_TOLD = 8


def summary(comparison: Comparison) -> Iterator[str]:
    """What was compared, who is ahead, and what the seeds can tell; at equal frames where budgets differ."""
    standing = comparison.at_frames or comparison.evaluation
    seeds = [
        len({run.seed for run in of_game})
        for _, of_game in grouped(comparison.runs, lambda run: (run.experiment, run.game))
    ]
    fewest, most = min(seeds), max(seeds)
    experiments = len({run.experiment for run in comparison.runs})
    yield (
        f"{counted(len(comparison.runs), 'run')}: {counted(experiments, 'experiment')}, "
        f"{counted(len(comparison.games), 'game')}, "
        f"{counted(most, 'seed') if fewest == most else f'{fewest} to {most} seeds'} of each."
    )

    if comparison.at_frames is not None:
        yield f"Budgets differ; what follows is of the table {standing.title!r}."
    yield from _leader(standing)
    told = [_verdict(pair) for pair in standing.pairs]
    yield from told[:_MAX_TOLD]
    if standing.tests_published:
        yield "Where one of two is published, other budgets and rules may be the reason."
    if len(told) > _MAX_TOLD:
        yield f"{len(told) - _MAX_TOLD} more pairs are in the table of the probability of improvement."


def _leader(standing: Standing) -> Iterator[str]:
    """The best of the runs, in the one statistic that all have, and where published agents are.

    Nobody leads where budgets or protocols differ.
    """
    values = {aggregate.label: aggregate.estimates["iqm_of_game_means"] for aggregate in standing.aggregates}
    alike = [c for c in standing.contenders if c.reference is None and c.label in values]
    if len({(contender.fingerprint, contender.frames) for contender in alike}) != 1:
        return
    ours = [contender.label for contender in alike]
    label = max(ours, key=lambda name: values[name].value)
    leads = sum(values[name].value == values[label].value for name in ours) == 1 < len(ours)
    yield (
        f"Human-normalized, as the interquartile mean of game means (0 is random play, 1 the human tester): {label} "
        f"has {_in_words(values[label])}{', the most of the runs' if leads else ''}."
    )
    published = [f"{name} {value.value:.3f}" for name, value in values.items() if name not in ours]
    if published:
        yield f"Published agents, with budgets and rules of their own: {', '.join(published[:_MAX_TOLD])}."


def _in_words(estimate: Estimate) -> str:
    if estimate.interval is None:
        return f"{estimate.value:.3f}, without an interval"
    return f"{estimate.value:.3f} [{estimate.interval.low:.3f}, {estimate.interval.high:.3f}]"


def _verdict(pair: Pair) -> str:
    chance = "" if pair.p_value is None else f" (P = {pair.probability.value:.2f}, p = {pair.p_value:.4f})"
    return f"{pair.first} and {pair.second}: {pair.verdict}{chance}."
