"""The bench: Atari games by named protocols. The only package that imports ale_py, and the only one that counts."""

from rl_lab.atari.games import SCORED_GAMES, all_games, resolve_game
from rl_lab.atari.protocol import PROTOCOLS, Protocol, named_protocol
from rl_lab.atari.vector_env import AtariVectorEnv, Episode, Observer, Step

__all__ = [
    "PROTOCOLS",
    "SCORED_GAMES",
    "AtariVectorEnv",
    "Episode",
    "Observer",
    "Protocol",
    "Step",
    "all_games",
    "named_protocol",
    "resolve_game",
]
