"""The bench: Atari games by named protocols. The only package that imports ale_py, and the only one that counts."""

from rl_lab.atari.colour import FRAMES_PER_SECOND, ColourGame, ColourStep
from rl_lab.atari.games import SCORED_GAMES, all_games, resolve_game, rom_md5
from rl_lab.atari.protocol import PROTOCOLS, Protocol, named_protocol
from rl_lab.atari.vector_env import MAX_PARALLEL_GAMES, AtariVectorEnv, Episode, Observer, Step, game_actions

__all__ = [
    "FRAMES_PER_SECOND",
    "MAX_PARALLEL_GAMES",
    "PROTOCOLS",
    "SCORED_GAMES",
    "AtariVectorEnv",
    "ColourGame",
    "ColourStep",
    "Episode",
    "Observer",
    "Protocol",
    "Step",
    "all_games",
    "game_actions",
    "named_protocol",
    "resolve_game",
    "rom_md5",
]
