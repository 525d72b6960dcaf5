"""The comparison as one HTML file: no network, no other file, light and dark, for a screen, a phone or paper.

Names, settings and commands may be a stranger's: all of them pass Jinja's escaping, and the Content-Security-Policy
lets only this page's own style and script through, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rl_lab import __version__, statistics
from rl_lab.errors import printable
from rl_lab.report.comparison import Comparison
from rl_lab.report.figures import Figure
from rl_lab.report.learning import REPETITIONS
from rl_lab.report.origins import experiments, provenances
from rl_lab.report.panels import Panel
from rl_lab.report.pictures import inline_svg
from rl_lab.report.standings import Standing
from rl_lab.report.summary import summary
from rl_lab.report.tables import Table, contenders_table, standing_tables

_PAGE = Path(__file__).parent / "page"


def as_html(comparison: Comparison, figures: Sequence[Figure], *, resampling_seed: int) -> str:
    """The whole page, with the comparison's figures; the seed is that of the statistics, for the record."""
    style, script = ((_PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        version=__version__,
        comparison=comparison,
        summary=list(summary(comparison)),
        contenders=contenders_table(comparison),
        sections=[
            (
                standing,
                _tables(standing, comparison, figures),
                [figure for figure in figures if figure.standing is standing],
            )
            for standing in comparison.standings
        ],
        learning=[figure for figure in figures if figure.standing is None],
        experiments=experiments(comparison),
        provenances=provenances(comparison),
        resampling_seed=resampling_seed,
        repetitions=statistics.REPETITIONS,
        permutations=statistics.PERMUTATIONS,
        band_repetitions=REPETITIONS,
        picture=_picture,
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _shown(value: object) -> object:
    """Text without control characters and marks that turn its direction."""
    return value if isinstance(value, Markup) else printable(str(value))


def _picture(panel: Panel, name: str) -> Markup:
    return Markup(inline_svg(panel, name))


def _tables(standing: Standing, comparison: Comparison, figures: Sequence[Figure]) -> Iterator[Table]:
    """Those of a standing that no figure has beside it."""
    beside = {table.title for figure in figures for table in figure.tables if figure.standing is standing}
    yield from (table for table in standing_tables(standing, comparison.table) if table.title not in beside)
