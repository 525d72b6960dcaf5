"""Every game that the lab names can be played, and is found however its name is written."""

from __future__ import annotations

import numpy as np
import pytest

from rl_lab.atari import PROTOCOLS, SCORED_GAMES, AtariVectorEnv, all_games, resolve_game, rom_md5
from rl_lab.errors import LabError
from rl_lab.seeding import seed_sequence

# A sample of the odd ones: without lives, with the most actions, slow to start, a name with a digit, no human score.
SAMPLE = ("Adventure", "Boxing", "MsPacman", "MontezumaRevenge", "TicTacToe3d", "VideoCube")


def assert_plays(game: str) -> None:
    env = AtariVectorEnv(game, PROTOCOLS["machado2018"], 2, seed_sequence(0, game), training=True)
    env.reset()
    # Elevator Action's screen is black for the first ten steps.
    frames = [
        env.step(actions).observations[:, -1]
        for actions in np.random.default_rng(0).integers(env.num_actions, size=(20, 2))
    ]
    assert env.frames == 4 * 2 * 20
    assert np.any(frames), "a game shows something"


@pytest.mark.parametrize("game", SAMPLE)
def test_sample_of_games_loads_and_plays(game: str) -> None:
    assert_plays(game)


@pytest.mark.slow
@pytest.mark.parametrize("game", sorted({*all_games()} - {*SAMPLE}))
def test_every_game_loads_and_plays(game: str) -> None:
    assert_plays(game)


def test_57_games_have_human_scores_and_each_can_be_played() -> None:
    assert len(SCORED_GAMES) == len(set(SCORED_GAMES)) == 57
    assert set(SCORED_GAMES) < set(all_games())


def test_every_game_is_its_own_name() -> None:
    assert [resolve_game(game) for game in all_games()] == list(all_games())


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "mspacman", "MSPACMAN", "Ms_Pacman"])
def test_name_is_found_in_any_case_and_with_underscores(name: str) -> None:
    assert resolve_game(name) == "MsPacman"


@pytest.mark.parametrize(
    ("name", "near"), [("Brekout", "Breakout"), ("space_invader", "SpaceInvaders"), ("montezuma", "MontezumaRevenge")]
)
def test_unknown_game_is_refused_with_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(LabError, match=f"no game '{name}'; did you mean '{near}'"):
        resolve_game(name)


@pytest.mark.parametrize("name", ["", "chess", "../pong"])
def test_name_of_no_game_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="no game"):
        resolve_game(name)


def test_two_player_game_that_ale_cannot_score_is_refused() -> None:
    with pytest.raises(LabError, match="no game 'warlords'"):
        resolve_game("warlords")


def test_md5_of_a_rom_is_the_one_that_ale_knows() -> None:
    # As in ale_py/roms/md5.json.
    assert rom_md5("Pong") == "60e0ea3cbe0913d39803477945e9e5ec"
