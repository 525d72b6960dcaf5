from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.report.figures import Figure, figures
from rl_lab.report.output import require_writable_file, write_file
from rl_lab.report.panels import Chart, Forest, short, told_apart
from rl_lab.report.pictures import inline_svg, png, svg
from rl_lab.scores import GameCurve, Reference, ReferenceCurve, curve, reference
from tests.report_examples import FRAMES, comparison_of, write_experiments, write_scores


def drawn(runs: Path, references: Sequence[Reference] = (), curves: Sequence[ReferenceCurve] = ()) -> dict[str, Figure]:
    """The figures of the runs by name."""
    found = figures(comparison_of(runs, references, curves), np.random.default_rng(0))
    assert len({figure.name for figure in found}) == len(found)
    return {figure.name: figure for figure in found}


def chart(figure: Figure, panel: int = 0) -> Chart:
    found = figure.panels[panel]
    assert isinstance(found, Chart)
    return found


@pytest.fixture(scope="module")
def all_figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    runs = tmp_path_factory.mktemp("runs")
    write_experiments(runs)
    return drawn(runs, [reference("dqn_nature_2015")], [curve("dopamine_dqn_cnn")])


def test_every_kind_of_figure_is_there(all_figures: dict[str, Figure]) -> None:
    assert list(all_figures) == [
        *("aggregates", "profile", "improvement"),
        *("aggregates-at-equal-hours", "profile-at-equal-hours", "improvement-at-equal-hours"),
        *("progress", "learning-Breakout", "learning-Pong", "learning-Seaquest"),
    ]


def test_evaluations_and_training_returns_have_a_panel_each(all_figures: dict[str, Figure]) -> None:
    evaluation, training = chart(all_figures["learning-Pong"], 0), chart(all_figures["learning-Pong"], 1)
    dqn, returns = (next(line for line in panel.lines if line.label == "dqn") for panel in (evaluation, training))
    assert dqn.x.tolist() == returns.x.tolist() == list(FRAMES)
    assert dqn.y == pytest.approx([4.1, 8.1, 11.1])
    assert returns.y == pytest.approx([2.05, 4.05, 5.55])
    assert [level.label for level in evaluation.levels] == ["dqn_nature_2015, 200M frames"]
    assert training.levels == ()
    assert [line.label for line in training.lines][-1] == "dopamine_dqn_cnn, training returns"
    assert "dopamine_dqn_cnn, training returns" not in [line.label for line in evaluation.lines]


def test_only_several_seeds_have_a_band_and_it_holds_their_mean(all_figures: dict[str, Figure]) -> None:
    bands = {line.label: line.band for line in chart(all_figures["learning-Pong"]).lines}
    assert bands["rainbow"] is None
    assert bands["dqn"] is not None
    assert (bands["dqn"].low < [4.1, 8.1, 11.1]).all()
    assert (bands["dqn"].high > [4.1, 8.1, 11.1]).all()


def test_the_interval_of_a_single_point_is_drawn(tmp_path: Path) -> None:
    for seed in range(2):
        write_scores(tmp_path, "Pong", "dqn", seed, [seed], frames=[4])
    panel = chart(drawn(tmp_path)["learning-Pong"])
    without = dataclasses.replace(panel, lines=tuple(dataclasses.replace(line, band=None) for line in panel.lines))
    axes = [Drawing().add_subplot() for _ in range(2)]
    for one, its_axes in zip((panel, without), axes, strict=True):
        one.draw(its_axes, is_first=True)
    assert [len(its_axes.collections) for its_axes in axes] == [1, 0]
    assert axes[0].collections[0].get_datalim(axes[0].transData).height == 1


def test_both_names_of_a_pair_are_seen_however_long(tmp_path: Path) -> None:
    for name in ("first", "second"):
        for seed in range(2):
            write_scores(tmp_path, "Pong", name + "x" * 90, seed, [1], frames=[4])
    panel = drawn(tmp_path)["improvement"].panels[0]
    assert isinstance(panel, Forest)
    (row,) = panel.rows
    assert short(row.label) == row.label
    assert [name[:5] for name in row.label.split(" > ")] == ["first", "secon"]


def test_agents_of_a_matrix_have_names_of_their_own_in_every_picture(tmp_path: Path) -> None:
    names = [
        f"dqn-quick-learning_rate-{rate}-target_update_steps-{steps}-update_every_steps-4"
        for rate in (0.0001, 0.001)
        for steps in (1_000, 2_000)
    ]
    for name in names:
        for seed in range(2):
            write_scores(tmp_path, "Pong", name, seed, [1, 2], frames=[4, 8])
    found = drawn(tmp_path)
    for name, count in (("aggregates", 4), ("improvement", 6), ("progress", 4), ("learning-Pong", 4)):
        for panel in found[name].panels:
            texts = re.findall(r">([^<]+)</text>", inline_svg(panel, "one"))
            assert len({text for text in texts if "\N{HORIZONTAL ELLIPSIS}" in text}) == count, name
    assert f"{names[0]} > {names[1]} 0.500" in found["improvement"].alternative


def test_labels_that_are_cut_alike_lose_their_common_words_or_are_numbered() -> None:
    rates = [f"dqn-learning_starts_steps-{rate}-target_update_steps-1000-n_step-4" for rate in ("1600", "3200")]
    middles = ["x" * 60 + letter + "x" * 60 for letter in "ab"]
    fitting = ["dqn", "dqn-" + "x" * 44, short(middles[0])]
    shown = told_apart([*rates, *middles, *fitting, "\x1b", r"\x1b"])
    assert len(set(shown.values())) == len(shown) == 9
    assert max(map(len, shown.values())) <= 48
    assert [shown[label] for label in fitting] == fitting
    assert "1600" in shown[rates[0]]
    assert "3200" in shown[rates[1]]


def test_a_curve_stands_only_at_frames_that_all_seeds_have(tmp_path: Path) -> None:
    write_scores(tmp_path, "Pong", "dqn", 0, [1, 2, 3], frames=[4, 8, 16])
    write_scores(tmp_path, "Pong", "dqn", 1, [3, 4, 5], frames=[8, 12, 16])
    (line,) = chart(drawn(tmp_path)["learning-Pong"]).lines
    assert (line.x.tolist(), line.y.tolist()) == ([8, 16], [2.5, 4])


def test_other_budgets_have_curves_of_their_own(tmp_path: Path) -> None:
    for seed in range(2):
        write_scores(tmp_path, "Pong", "dqn", seed, [1], frames=[4 + 4 * seed])
    found = drawn(tmp_path)
    assert [line.label for line in chart(found["learning-Pong"]).lines] == ["dqn, 4 frames", "dqn, 8 frames"]


def test_a_published_curve_is_cut_at_the_range_of_ours_but_for_its_first_point(tmp_path: Path) -> None:
    write_scores(tmp_path, "Pong", "dqn", 0, [1, 2], frames=[1_000_000, 2_500_000])
    points = GameCurve((1_000_000, 2_000_000, 3_000_000), (1, 2, 3), (0, 1, 2), (2, 3, 4), (5, 5, 5))
    for frames, kept in (((1_000_000, 2_000_000, 3_000_000), 2), ((5_000_000, 6_000_000, 7_000_000), 1)):
        published = dataclasses.replace(curve("dopamine_dqn_cnn"), games={"Pong": points._replace(frames=frames)})
        line = chart(drawn(tmp_path, curves=[published])["learning-Pong"], 1).lines[-1]
        assert line.x.tolist() == list(frames[:kept])
        assert line.band is not None
        assert line.band.high.tolist() == [2, 3][:kept]


def test_progress_by_hours_follows_the_speed_of_training(all_figures: dict[str, Figure]) -> None:
    by_frames, by_hours = chart(all_figures["progress"], 0), chart(all_figures["progress"], 1)
    hours = {line.label: line.x[-1] for line in by_hours.lines}
    assert hours["dqn"] == pytest.approx(1_200_000 / 400 / 3_600)
    assert hours["sb3"] == pytest.approx(2 * hours["dqn"])
    assert [line.y.tolist() for line in by_frames.lines] == [line.y.tolist() for line in by_hours.lines]


def test_progress_is_of_both_runs_of_a_seed_that_is_there_twice(tmp_path: Path) -> None:
    for folder, score in (("a", -20.7), ("b", 14.6)):
        write_scores(tmp_path / folder, "Pong", "dqn", 0, [score], frames=[4])
    (line,) = chart(drawn(tmp_path)["progress"]).lines
    assert line.y == pytest.approx([0.5])


def test_a_profile_is_the_fraction_of_scores_above_each_threshold(tmp_path: Path) -> None:
    human = {"Pong": 14.6, "Breakout": 30.5}
    for game, score in human.items():
        for seed, factor in enumerate((0.5, 1.5)):
            write_scores(tmp_path, game, "dqn", seed, [score * factor], frames=[4])
    (line,) = chart(drawn(tmp_path)["profile"]).lines
    assert np.interp(1.0, line.x, line.y) == 0.5
    assert line.y[0] == 1.0


def test_rows_of_aggregates_stay_aligned_where_a_statistic_is_missing(all_figures: dict[str, Figure]) -> None:
    forests = [panel for panel in all_figures["aggregates"].panels if isinstance(panel, Forest)]
    assert len({tuple(row.label for row in forest.rows) for forest in forests}) == 1
    iqm = {row.label: row.estimate for row in forests[0].rows}
    assert iqm["dqn_nature_2015"] is None
    assert iqm["dqn"] is not None


def test_a_table_has_every_point_that_is_drawn(all_figures: dict[str, Figure]) -> None:
    for figure in all_figures.values():
        for panel, table in zip(figure.panels, figure.tables, strict=False):
            if isinstance(panel, Chart):
                assert len(table.rows) == sum(len(line.x) for line in panel.lines)


def test_words_say_where_curves_end(all_figures: dict[str, Figure]) -> None:
    words = all_figures["learning-Pong"].alternative
    assert "dqn ends at 11.1 after 1,200,000 frames" in words
    assert "dqn_nature_2015, 200M frames, is at 18.9" in words


def test_many_contenders_leave_the_best_and_the_caption_says_so(tmp_path: Path) -> None:
    for index in range(40):
        write_scores(tmp_path, "Pong", f"agent-{index:02}", 0, [index], frames=[4])
    found = drawn(tmp_path)
    assert [line.label for line in chart(found["learning-Pong"]).lines] == [f"agent-{i}" for i in range(28, 40)]
    assert "best 12 of 40" in found["learning-Pong"].caption
    assert len(found["aggregates"].tables[0].rows) == 40
    forest = found["aggregates"].panels[0]
    assert isinstance(forest, Forest)
    assert len(forest.rows) == 30


def test_the_same_figure_gives_the_same_bytes_without_a_date(all_figures: dict[str, Figure]) -> None:
    figure = all_figures["learning-Pong"]
    assert png(figure) == png(figure)
    assert svg(figure) == svg(figure)
    assert b"date" not in svg(figure).lower()


def test_letters_of_an_svg_for_papers_are_outlines(all_figures: dict[str, Figure]) -> None:
    picture = svg(all_figures["learning-Pong"]).decode()
    assert "<text" not in picture
    assert 'href="http' not in picture


def test_an_svg_for_the_page_has_ids_of_its_own_and_colours_of_the_page(all_figures: dict[str, Figure]) -> None:
    picture = inline_svg(all_figures["learning-Pong"].panels[0], "one")
    ids, targets = re.findall(r' id="([^"]+)"', picture), re.findall(r'(?:url\(|href=")#([^")]+)', picture)
    assert len(ids) == len(set(ids))
    assert {name.split("-")[0] for name in ids} == {"one"}
    assert targets
    assert set(targets) <= set(ids)
    assert "style" not in picture
    assert set(re.findall(r'(?:fill|stroke)="(#\w+)"', picture)) == set()


@pytest.mark.parametrize("name", ["a$b$", r"$\frac{$", "_hidden", "<b>&amp;", "漢字🎮", "x" * 500, "\x00\x1b[31m"])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    write_scores(tmp_path, "Pong", name, 0, [1, 2, 3], folder="one")
    write_scores(tmp_path, "Breakout", name, 0, [1, 2, 3], folder="two")
    for figure in drawn(tmp_path).values():
        assert svg(figure)
        assert inline_svg(figure.panels[0], "one")


def test_a_game_of_a_strange_name_gives_a_file_name(tmp_path: Path) -> None:
    for index, game in enumerate(("../../etc", "//etc", "Pong")):
        write_scores(tmp_path, game, "dqn", 0, [1], frames=[4], folder=str(index))
    assert [name for name in drawn(tmp_path) if name.startswith("learning")] == [
        "learning-etc",
        "learning-etc-1",
        "learning-Pong",
    ]


def test_plots_are_written_as_png_and_svg_into_a_new_folder(tmp_path: Path) -> None:
    for seed in range(2):
        write_scores(tmp_path / "runs", "Pong", "dqn", seed, [1, 2, 3])
    folder = tmp_path / "new" / "plots"
    assert main(["compare", str(tmp_path / "runs"), "--plots", str(folder)]) == 0
    names = [f"{name}.{kind}" for name in ("aggregates", "learning-Pong", "progress") for kind in ("png", "svg")]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("flag", ["--plots", "--html"])
def test_a_place_that_cannot_be_written_is_named_before_anything_is_read(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["compare", str(tmp_path / "no runs here"), flag, str(tmp_path / "file" / "below")]) == 2
    errors = capsys.readouterr().err
    assert "Not a directory" in errors or "is no folder" in errors
    assert errors.count("\n") == 1


def test_a_folder_or_a_device_is_no_name_for_a_report(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(LabError, match="give the name of a file"):
            require_writable_file(path)


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    (tmp_path / ".report.html.new").mkdir()
    with pytest.raises(LabError, match="cannot be written"):
        write_file(tmp_path / "report.html", b"new")
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_link_to_a_report_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "link.html").symlink_to("real.html")
    write_file(tmp_path / "link.html", b"new")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text() == "new"


def test_figures_as_data_need_no_matplotlib() -> None:
    code = "import sys, rl_lab.cli.compare, rl_lab.report.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
