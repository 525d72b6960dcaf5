"""The commands as people type them. Each mistake is one line on stderr, exit status 2, and leaves nothing behind."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rl_lab.atari import all_games
from rl_lab.checkpoint import checkpoints
from rl_lab.cli.main import main
from rl_lab.experiment import config_names
from rl_lab.records import read_status
from tests.runs import rewrite_manifest, train
from tests.sweeps import STATELESS
from tests.tiny import tiny_experiment


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny run of Breakout."""
    folder = tmp_path_factory.mktemp("cli") / "runs"
    train(tiny_experiment(), folder)
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


TINY = ["--threads", "1", "--total-steps", "200", "--iteration-steps", "200", "--num-games", "2"]
TINY += ["--evaluation-episodes", "1", "--protocol.max-frames-per-episode", "400"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "no command 'trian'; did you mean 'train'?"),
        ("train dqn/quik", "no config 'dqn/quik'; did you mean 'dqn/quick'?"),
        ("train absent.toml", "absent.toml cannot be read: No such file"),
        ("train --game Pnog", "no game 'Pnog'; did you mean 'Pong'?"),
        ("train --agent dqm", "no agent 'dqm'; did you mean 'dqn'?"),
        ("train --protocol nature2014", "no protocol 'nature2014'; did you mean 'nature2015'?"),
        ("train --agent.learning-rte 1", "did you mean '--agent.learning-rate'?"),
        ("train --seed one", "argument --seed: invalid int value: 'one'"),
        ("train --seed -1", "seed is -1"),
        ("train --supervise --restarts -1", "restarts are -1; allowed is 0 or more"),
        ("train --agent.learning-rate nan", "learning_rate is nan"),
        ("train --agent.learning-rate inf", "learning_rate is inf"),
        ("train --agent.learning-rate -1", "learning_rate is -1.0"),
        ("train --agent.batch-size 0", "batch_size is 0"),
        ("train --agent.epsilon-end 1.5", "epsilon_end is 1.5; allowed is 0 to 1"),
        ("train --protocol.sticky-probability 7", "sticky_probability is 7.0; allowed is 0 to 1"),
        ("train --agent.batch-size 64 --agent.replay-capacity 32", "a batch no larger than the replay"),
        ("train --total-steps 800", "nothing would be learned; use a smaller --agent.learning-starts-steps"),
        ("train --total-steps 0", "total_steps is 0; allowed is 1 or more"),
        ("train --agent.replay-capacity 100000000000", "GB free; use --agent.replay-capacity"),
        ("train sb3_dqn/quick --agent.replay-capacity 1000000000", "GB free; use --agent.replay-capacity"),
        ("train sb3_qrdqn/like --agent.quantiles 1001", "quantiles is 1001; allowed is 1 to 1000"),
        ("train --device cuda", "torch sees no GPU; use --device cpu"),
        ("train --device tpu", "device is 'tpu'; allowed is one of auto, cpu, cuda"),
        ("train --seed 1 dqn/like", "CONFIG comes first"),
        ("train --without noisyy", "'noisyy' is no switch of dqn; did you mean 'noisy'? (on: target_network, double,"),
        ("train --without noisy", "'noisy' is off already (on: target_network, double, n_step, gradient_clipping)"),
        ("train dqn/mnih2013 --without double", "'double' is off already (on: none)"),
        ("train --agent uniform --without double", "'double' is no switch of uniform (on: none)"),
        ("train --without", "argument --without: expected at least one argument"),
        ("train --without double --agent.double", "--without double and a flag that turns it on again exclude each"),
        ("train --resume runs --without double", "--without cannot be given with --resume: a run goes on as it began"),
        ("train --resume runs --explain", "--explain cannot be given with --resume: a run goes on as it began"),
        ("list switches --agent uniform", "uniform has no switches"),
        ("list switches --agent dqm", "no agent 'dqm'; did you mean 'dqn'?"),
        ("evaluate absent", "absent is no run and no checkpoint"),
        (f"evaluate {'x' * 300}.zip --game Pong", ".zip; give a .zip saved by stable-baselines3's DQN or PPO"),
        (f"train --agent {'x' * 300}.py", ".py; give the path of a Python file that defines an Agent"),
        ("evaluate absent.zip", "does not say which game it plays; give --game"),
        ("evaluate absent.zip --game Pong", "no file absent.zip"),
        ("compare absent", "no runs in absent"),
        ("list gmaes", "argument KIND: invalid choice: 'gmaes'"),
        ("list runs", "no runs in runs"),
        ("tensorboard absent", "absent"),
        ("bench --steps 0", "0 steps, 5 repetitions; allowed are multiples of 64 from 192 on"),
        ("bench nonsense", "argument SUITE: invalid choice: 'nonsense' (choose from"),
        ("bench memory --transitions 5", "5 transitions; allowed are 10000 or more"),
        ("train --agent.replay-storage lz4", "replay_storage is 'lz4'; allowed is one of raw, zstd"),
        ("train --agent.replay-chunk-frames 1", "replay_chunk_frames is 1; allowed is 4 to 256"),
        ("bench --device gpu", "device is 'gpu'; allowed is one of auto, cpu, cuda"),
        ("train --threads -1", "threads is -1; allowed is 0 to 1024"),
        ("bench --threads 99999999999", "threads are 99999999999; allowed is 0, for one on each core, to 1024"),
        ("train --agent.replay-capacity 1" + 400 * "0", "replay_capacity is larger than any machine counts"),
        ("train --agent.precision fp16", "precision is 'fp16'; allowed is one of fp32, bf16"),
        ("train --seed 1" + 400 * "0", "allowed is 0 to 9223372036854775807"),
        (
            "train sb3_dqn/like --iteration-steps 25001",
            "an iteration are 25001; allowed is a multiple of 4",
        ),
    ],
)
def test_a_mistake_is_one_line_with_status_2_and_leaves_nothing(
    command: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in command:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    assert main(command.split()) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_compare_names_an_unknown_reference(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs), "--reference", "dqn_natur_2015"]) == 2
    assert "did you mean 'dqn_nature_2015'?" in capsys.readouterr().err


def test_train_ends_with_directory_scores_and_two_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--agent", "uniform", "--game", "breakout", *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("uniform-on-dqn-quick on Breakout, seed 0: 200 agent steps (800 frames)")
    assert re.fullmatch(
        r" +800 frames +[\d,]+ frames/s  mean score .* over 1 episodes, 1 cut by the frame cap, human-normalized .*",
        lines[1],
    )
    assert lines[2].startswith("runs/Breakout/uniform-on-dqn-quick/seed-0: mean score")
    assert [line.split()[2:4] for line in lines[3:]] == [["rl-lab", "tensorboard"], ["rl-lab", "evaluate"]]


def test_the_commands_that_train_shows_work_for_a_folder_with_a_blank(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--agent", "uniform", "--runs", "my runs", *TINY]) == 0
    watch, play = (shlex.split(line.partition(":")[2]) for line in capsys.readouterr().out.splitlines()[-2:])
    assert watch == ["rl-lab", "tensorboard", "my runs"]
    assert play[:2] == ["rl-lab", "evaluate"]
    assert Path(play[2]).is_dir()


def test_a_stopped_run_whose_agent_keeps_no_state_shows_the_command_that_starts_it_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("stateless.py").write_text(STATELESS)
    tiny = [*TINY, "--iteration-steps", "100", "--until-steps", "100", "--runs", "my runs"]
    assert main(["train", "--agent", "stateless.py", "--game", "Breakout", *tiny]) == 0
    run = Path("my runs/Breakout/stateless-on-dqn-quick/seed-0")
    lines = capsys.readouterr().out.splitlines()
    said = "stopped at 100 agent steps, as asked; 100 are left, and the agent keeps no state to go on from"
    told = lines.index(said)
    words = shlex.split(lines[told + 1].removeprefix("start anew: rl-lab "))
    assert main(["train", "--resume", str(run), "--agent", "stateless.py"]) == 2
    assert capsys.readouterr().err.startswith(
        "rl-lab: this agent keeps no state to go on from; start the run anew with --overwrite, or define save_state"
    )
    assert main(words) == 0
    assert (read_status(run).state, read_status(run).steps) == ("finished", 200)


def test_dry_run_prints_an_experiment_that_trains_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--dry-run", "--seed", "3", "--agent.learning-rate", "1e-3"]) == 0
    text = capsys.readouterr().out
    assert "seed = 3" in text
    assert "learning_rate = 0.001" in text
    Path("mine.toml").write_text(text)
    assert main(["train", "mine.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out == text


def test_help_of_train_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["train", "--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--agent.epsilon-decay-steps INTEGER Agent steps from epsilon_start to epsilon_end, linearly." in text
    assert "--protocol.sticky-probability NUMBER Chance that the emulator repeats" in text


def test_evaluate_reports_the_saved_agent_under_its_training_protocol(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "Breakout" / "tiny" / "seed-0"
    command = ["evaluate", str(run), "--episodes", "3", "--threads", "1", "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["game"], first["episodes"], len(first["scores"])) == ("Breakout", 3, 3)
    assert first["protocol"] == "nature2015(max_frames_per_episode=400)"
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_evaluate_plays_by_another_protocol_on_request(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "Breakout" / "tiny" / "seed-0"
    assert main(["evaluate", str(run), "--protocol", "atari100k", "--episodes", "1", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] == 0.001


@pytest.mark.parametrize("game", ["Alien", "Freeway"])
def test_evaluate_refuses_a_game_with_other_actions(game: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(runs / "Breakout" / "tiny" / "seed-0"), "--game", game]) == 2
    assert f"the agent was trained with NOOP FIRE RIGHT LEFT, {game} has NOOP" in capsys.readouterr().err


def test_evaluate_tells_the_names_of_actions_apart_not_only_their_number(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "Breakout" / "tiny" / "seed-0", run)
    for directory in checkpoints(run):
        path = directory / "agent" / "agent.json"
        path.write_text(path.read_text().replace('"RIGHT"', '"UP"'))
        rewrite_manifest(directory)
    assert main(["evaluate", str(run)]) == 2
    assert "trained with NOOP FIRE UP LEFT, Breakout has NOOP FIRE RIGHT LEFT" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "foreign", "pickle"])
def test_evaluate_refuses_a_damaged_agent_and_runs_no_code_from_it(
    damage: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "Breakout" / "tiny" / "seed-0", run)
    witness = tmp_path / "was-run"
    for weights in run.glob("checkpoints/*/agent/weights.safetensors"):
        whole = weights.read_bytes()
        payload = {"truncated": whole[:1000], "foreign": b"{}", "pickle": pickle.dumps(_Malice(witness))}
        weights.write_bytes(payload[damage])
    assert main(["evaluate", str(run)]) == 2
    assert "weights.safetensors is not as its manifest says" in capsys.readouterr().err
    for directory in checkpoints(run):
        rewrite_manifest(directory)  # as a stranger would, who means harm
    assert main(["evaluate", str(run)]) == 2
    errors = capsys.readouterr().err
    assert "weights.safetensors" in errors
    assert errors.count("\n") == 1
    assert not witness.exists()


@pytest.mark.parametrize(
    ("key", "value"), [("actions", 5), ("actions", []), ("actions", [1, 2, 3, 4]), ("seed", -1), ("seed", "0")]
)
def test_evaluate_refuses_a_foreign_description(
    key: str, value: object, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "Breakout" / "tiny" / "seed-0", run)
    for directory in checkpoints(run):
        path = directory / "agent" / "agent.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        rewrite_manifest(directory)
    assert main(["evaluate", str(run)]) == 2
    errors = capsys.readouterr().err
    assert "agent.json" in errors
    assert key in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("content", ["pickle", "zip with a pickle"])
def test_evaluate_runs_no_code_from_a_file_offered_as_an_sb3_agent(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, witness = tmp_path / "model.zip", tmp_path / "was-run"
    malice = pickle.dumps(_Malice(witness))
    if content == "pickle":
        path.write_bytes(malice)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", malice)
            archive.writestr("policy.pth", malice)
    assert main(["evaluate", str(path), "--game", "Pong"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not witness.exists()


def test_compare_shows_runs_beside_published_scores(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs), "--reference", "dqn_nature_2015"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = lines.index("Evaluation scores") + 1
    assert lines[header].split() == ["game", "tiny", "dqn_nature_2015"]
    assert lines[header + 1].split()[0] == "Breakout"
    assert lines[header + 1].endswith("401.2 (13.872)")


@pytest.mark.parametrize(
    "kind", ["games", "suites", "agents", "switches", "configs", "sweeps", "tunes", "protocols", "references"]
)
def test_list_shows_what_there_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    some = {
        "games": "Pong",
        "suites": "atari10",
        "agents": "dqn",
        "switches": "noisy",
        "configs": "dqn/quick",
        "sweeps": "smoke",
        "tunes": "krull",
        "protocols": "sb3_zoo",
        "references": "rainbow",
    }
    assert some[kind] in names
    if kind == "games":
        assert tuple(names) == all_games()
    if kind == "configs":
        assert tuple(names) == config_names()


def test_list_runs_shows_state_and_score(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "runs", "--runs", str(runs)]) == 0
    assert "finished" in capsys.readouterr().out.splitlines()[1]


def test_a_warning_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    monkeypatch.setattr("warnings.filters", [])  # the tests' own make errors of warnings
    short = "--total-steps 240 --iteration-steps 240 --num-games 2 --agent.learning-starts-steps 100"
    rules = "--evaluation-episodes 1 --protocol.max-frames-per-episode 400 --threads 1 --device cpu"
    assert main(["train", *short.split(), *rules.split(), "--agent.precision", "bf16", "--runs", str(tmp_path)]) == 0
    expected = "rl-lab: precision is bf16, which this cpu computes no faster than fp32: --agent.precision fp32\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("status", ['{"pid": "x"}', '{"pid": -1}', '{"state": "asleep"}', "5", "{"])
def test_list_runs_names_a_damaged_status(
    status: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "Breakout" / "tiny" / "seed-0"
    shutil.copytree(runs / "Breakout" / "tiny" / "seed-0", run)
    path = run / "status.json"
    change = json.loads(status) if status.startswith('{"') else None
    path.write_text(status if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    assert main(["list", "runs"]) == 0
    assert "unreadable: " in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "rl_lab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rl-lab ")


class _Malice:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._witness), "w")
