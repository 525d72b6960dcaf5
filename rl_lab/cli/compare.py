"""Who is better: runs side by side with 95 % intervals, and with published agents on request.

The last evaluation of each run counts, or the one that --at-frames names. Runs of one experiment are its seeds. Other
budgets are columns of their own; other protocols are refused, unless --mixed shows them, marked. --html writes a report
of one file, --plots its pictures.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rl_lab.cli.main import Parser
from rl_lab.errors import LabError, LabWarning, did_you_mean
from rl_lab.records import find_tunes, tune_of, tuning_seeds
from rl_lab.report.cautions import Absent, mixtures
from rl_lab.report.comparison import Comparison, compare
from rl_lab.report.output import require_writable_file, require_writable_folder, write_file
from rl_lab.report.results import Run, read_runs
from rl_lab.report.text import FORMATS
from rl_lab.scores import DEFAULT_TABLE, TABLE_NAMES, published, score_table

_RESAMPLING_SEED = 0
"""The same runs give the same intervals."""


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab compare`."""
    options = _parse(parser, arguments)
    table = score_table(options.normalize)
    references, curves = published(options.reference)
    tunes = _tunes_below(options.paths)
    runs, unevaluated = read_runs(options.paths, options.games)
    if not runs:
        raise LabError(f"none of the {len(unevaluated)} runs has an evaluation yet; wait for the first iteration's end")
    unfinished = [] if options.sweep is None else _unfinished(options.sweep, options.agent, options.games, runs)
    tuning = [run.directory for run in runs if run.seed in tuning_seeds(run.directory, run.experiment)]
    runs = [run for run in runs if run.directory not in tuning]
    if not runs:
        raise LabError("the seeds of all these runs chose their settings: they are no results; train other seeds")
    if not options.mixed and (reasons := mixtures(runs)):
        raise LabError(f"{'; '.join(reasons)}; give runs that agree, or --mixed to see all, marked")
    comparison = compare(
        runs,
        references,
        curves,
        table=table,
        absent=Absent(
            unevaluated=unevaluated,
            unfinished=unfinished,
            tunes=tunes,
            tuning=tuning,
        ),
        at_frames=options.at_frames,
        rng=np.random.default_rng(_RESAMPLING_SEED),
    )
    if options.html is not None or options.plots is not None:
        _draw(comparison, html=options.html, plots=options.plots)
    elif curves:
        names = ", ".join(curve.name for curve in curves)
        warnings.warn(
            f"--html and --plots draw {names}; tables have columns for points of it, such as {curves[0].name}_200M",
            LabWarning,
            stacklevel=1,
        )
    print(FORMATS[options.format](comparison))
    return 0


def _parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments; LabError for what can be told to be wrong before a run is read."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="runs, or folders that hold runs")
    parser.add_argument(
        "--reference", action="append", default=[], metavar="NAME", help="a published agent or curve; may be repeated"
    )
    parser.add_argument("--games", nargs="+", default=[], metavar="GAME", help="only these (default: all)")
    parser.add_argument(
        "--at-frames", type=int, metavar="INTEGER", help="evaluations after so many frames (default: the last ones)"
    )
    parser.add_argument(
        "--normalize", default=DEFAULT_TABLE, metavar="TABLE", help=f"human scores: {', '.join(TABLE_NAMES)}"
    )
    parser.add_argument("--format", default="text", metavar="NAME", help=", ".join(FORMATS))
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report of one file, pictures included")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write each picture as PNG and SVG")
    parser.add_argument("--sweep", metavar="NAME", help="say which of this sweep's runs are not finished")
    parser.add_argument(
        "--agent", action="append", default=[], metavar="FILE", help="with --sweep: your agent's .py file: it is run"
    )
    parser.add_argument("--mixed", action="store_true", help="show what does not compare together, marked")
    options = parser.parse_all(arguments)
    if options.format not in FORMATS:
        raise LabError(
            f"no format {options.format!r}{did_you_mean(options.format, FORMATS)} (allowed: {', '.join(FORMATS)})"
        )
    if options.agent and options.sweep is None:
        raise LabError(f"--agent {options.agent[0]} is for the runs of a --sweep; give its name, or leave --agent out")
    if options.html is not None:
        require_writable_file(options.html)
    if options.plots is not None:
        require_writable_folder(options.plots)
    return options


def _tunes_below(paths: Sequence[Path]) -> list[Path]:
    """The folders whose runs are no results; LabError where a path lies in one."""
    for path in paths:
        if (tune := tune_of(path)) is not None:
            raise LabError(
                f"{path} has runs of a tune, whose seeds chose their settings: their scores are no results; train "
                f"{tune / 'best.toml'} with other seeds"
            )
    return sorted({tune for path in paths for tune in find_tunes(path)})


def _unfinished(sweep: str, agent_files: Sequence[str], games: Sequence[str], runs: Sequence[Run]) -> list[Path]:
    """The runs of a sweep that are not finished, only of `games`, if any; agents are loaded for their names only."""
    from rl_lab.sweep.plan import expand, read_sweep, sweep_path

    finished = {
        (run.game, run.experiment, run.seed, run.evaluations[-1].frames) for run in runs if run.state == "finished"
    }
    plan = expand(read_sweep(sweep_path(sweep)), Path(), agent_files)
    return [
        planned.directory
        for planned, config in ((planned, planned.config) for planned in plan)
        if not games or config.game in games
        if (config.game, config.name, config.seed, config.total_frames) not in finished
    ]


def _draw(comparison: Comparison, *, html: Path | None, plots: Path | None) -> None:
    """The report and the pictures; matplotlib and Jinja, which take half a second, are imported for them only."""
    from rl_lab.report.figures import figures
    from rl_lab.report.html import as_html
    from rl_lab.report.pictures import write_pictures

    drawn = figures(comparison, np.random.default_rng(_RESAMPLING_SEED))
    if html is not None:
        write_file(html, as_html(comparison, drawn, resampling_seed=_RESAMPLING_SEED).encode())
    if plots is not None:
        write_pictures(drawn, plots)
