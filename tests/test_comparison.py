from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl_lab.cli.main import main
from rl_lab.comparison import group, read_results, require_comparable
from rl_lab.errors import LabError


def write_run(
    runs: Path, experiment: str, seed: int, score: float | None, learning_rate: float = 0.1, **changes: Any
) -> Path:
    """A run as `rl_lab.run` leaves it, as far as comparison reads it."""
    run = runs / "Pong" / experiment / f"seed-{seed}"
    run.mkdir(parents=True)
    (run / "config.toml").write_text(
        f'name = "{experiment}"\ngame = "Pong"\nseed = {seed}\ntotal_steps = 1\n'
        f"[protocol]\nframe_skip = 4\n[agent]\nlearning_rate = {learning_rate}\n"
    )
    (run / "status.json").write_text("{}")
    rules = {"protocol": "nature2015", "protocol_fingerprint": "aaa"}
    record = {"game": "Pong", "frames": 400_000, "episodes": 30, **rules, **changes}
    lines = [] if score is None else [{**record, "frames": 1, "mean_score": -21.0}, {**record, "mean_score": score}]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_an_entry_is_mean_and_spread_of_the_last_evaluations_over_seeds(tmp_path: Path) -> None:
    for seed, score in enumerate((1.0, 2.0, 6.0)):
        write_run(tmp_path, "dqn", seed, score)
    (entry,) = group(read_results([tmp_path])[0])
    assert (entry.score, len(entry.results)) == (3.0, 3)
    assert entry.spread == pytest.approx(7**0.5)


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, 5.0)
    assert group(read_results([tmp_path])[0])[0].spread is None


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, "dqn", 0, 5.0)
    assert len(read_results([tmp_path, run])[0]) == 1


def test_a_run_without_evaluation_is_named_not_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path, "dqn", 0, None)
    assert read_results([tmp_path]) == ([], [run])


def test_other_protocols_or_budgets_in_one_game_are_refused_by_name(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, 5.0)
    write_run(tmp_path, "sb3", 0, 5.0, frames=80_000)
    with pytest.raises(LabError, match=r"Pong: different frames \(dqn 400,000, sb3 80,000\); .* --mixed"):
        require_comparable(group(read_results([tmp_path])[0]))
    write_run(tmp_path / "other", "dqn", 0, 5.0)
    write_run(tmp_path / "other", "sb3", 0, 5.0, protocol="machado2018", protocol_fingerprint="bbb")
    with pytest.raises(LabError, match=r"protocols \(dqn nature2015 aaa, sb3 machado2018 bbb\)"):
        require_comparable(group(read_results([tmp_path / "other"])[0]))


def test_seeds_of_one_experiment_with_other_budgets_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, 5.0)
    write_run(tmp_path, "dqn", 1, 5.0, frames=80_000)
    with pytest.raises(LabError, match="dqn 80,000 and 400,000"):
        require_comparable(group(read_results([tmp_path])[0]))


def test_runs_of_other_settings_under_one_name_are_refused_by_key(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, 5.0)
    write_run(tmp_path, "dqn", 1, 5.0, learning_rate=0.2)
    with pytest.raises(LabError, match=r"settings under the name dqn \(agent\.learning_rate\)"):
        require_comparable(group(read_results([tmp_path])[0]))


def test_one_seed_twice_is_not_two_seeds(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_run(tmp_path / folder, "dqn", 0, 5.0)
    with pytest.raises(LabError, match=r"runs of one seed of dqn \(0, 0\)"):
        require_comparable(group(read_results([tmp_path])[0]))


def test_a_folder_that_only_looks_like_a_run_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, "dqn", 0, 5.0)
    (run / "config.toml").write_text("x = 1")
    with pytest.raises(LabError, match=r"config\.toml is no record of a run: name, game"):
        read_results([tmp_path])


def test_mixed_shows_them_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "dqn", 0, 5.0)
    write_run(tmp_path, "sb3", 0, 5.0, frames=80_000)
    assert main(["compare", str(tmp_path)]) == 2
    assert main(["compare", str(tmp_path), "--mixed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Pong *")
    assert any(line.startswith("* Pong mixes frames") for line in lines)


def test_all_runs_without_evaluation_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "dqn", 0, None)
    assert main(["compare", str(tmp_path)]) == 2
    assert "has an evaluation yet" in capsys.readouterr().err


def test_the_table_shows_all_changed_rules_and_how_many_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "dqn", 0, 5.0, protocol="nature2015(noop_max=0, fire_reset=True)", episodes=10)
    write_run(tmp_path, "dqn", 1, 5.0, protocol="nature2015(noop_max=0, fire_reset=True)", episodes=20)
    assert main(["compare", str(tmp_path)]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert "10 and 20" in row
    assert row.endswith("nature2015(noop_max=0, fire_reset=True)")


@pytest.mark.parametrize(
    "record", ['{"mean_score": null}', '{"mean_score": NaN}', '{"mean_score": true}', "5", '{"game": "Pong"}']
)
def test_a_damaged_evaluation_is_one_line(record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "dqn", 0, 5.0)
    whole = (run / "evaluations.jsonl").read_text().splitlines()[-1]
    damaged = json.dumps({**json.loads(whole), **json.loads(record)}) if record.startswith('{"mean') else record
    (run / "evaluations.jsonl").write_text(damaged + "\n")
    assert main(["compare", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "evaluations.jsonl " in errors
    assert errors.count("\n") == 1
