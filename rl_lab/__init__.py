"""rl-lab: a reinforcement-learning laboratory for Atari."""

__version__ = "0.1.0"
