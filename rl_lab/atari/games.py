"""The games: the names of ale-py's bundled ROMs, and which of them have human scores."""

from __future__ import annotations

import functools
import hashlib

from ale_py import roms

from rl_lab.errors import LabError, did_you_mean
from rl_lab.scores import score_table

SCORED_GAMES: tuple[str, ...] = tuple(sorted(score_table().human))
"""The 57 games with human and random scores, as in `ALE/<Game>-v5`."""


# ale-py bundles these two-player ROMs but cannot score them: it refuses to load them.
_UNSUPPORTED = frozenset({"combat", "joust", "maze_craze", "warlords"})


@functools.cache
def _rom_ids() -> dict[str, str]:
    """CamelCase game -> ale-py's snake_case ROM id, for every ROM that the lab can run."""
    ids = sorted(rom_id for rom_id in roms.get_all_rom_ids() if rom_id not in _UNSUPPORTED)
    return {"".join(word.capitalize() for word in rom_id.split("_")): rom_id for rom_id in ids}


def all_games() -> tuple[str, ...]:
    """Every game that the lab can run, CamelCase, sorted."""
    return tuple(_rom_ids())


def resolve_game(name: str) -> str:
    """The CamelCase name of a game given in any case, with or without underscores; LabError for an unknown one."""
    by_plain_name = {game.lower(): game for game in all_games()}
    game = by_plain_name.get(name.replace("_", "").lower())
    if game is None:
        raise LabError(f"no game {name!r}{did_you_mean(name, all_games())} (`rl-lab list games` shows all)")
    return game


def rom_id(game: str) -> str:
    """ale-py's id of a game named as in `all_games`."""
    return _rom_ids()[game]


def rom_md5(game: str) -> str:
    """MD5 of the game's ROM file, in hex: tells which release of the game was played."""
    path = roms.get_rom_path(rom_id(game))
    assert path is not None, game
    return hashlib.md5(path.read_bytes()).hexdigest()
