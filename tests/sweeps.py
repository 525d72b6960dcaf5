"""A small sweep, an agent that is slow as long as there is a file called obstacle, and one that keeps no state."""

SWEEP = """
name = "tiny"
agents = ["uniform"]
games = ["Breakout"]
seeds = [0, 1]
[overrides]
total_steps = 400
iteration_steps = 200
num_games = 2
evaluation_episodes = 1
log_every_steps = 20
device = "cpu"
protocol.max_frames_per_episode = 400
"""

SLOW = """
import time
from pathlib import Path

from rl_lab.agent import load_agent


class Slow(load_agent("uniform")):
    def train(self, env, steps, log):
        while env.steps < steps and not env.pause_requested:
            super().train(env, env.steps + env.num_games, log)
            if Path("obstacle").exists():
                time.sleep(0.2)
"""

STATELESS = """
from rl_lab.agent import Agent, load_agent


class Stateless(load_agent("uniform")):
    save_state, load_state = Agent.save_state, Agent.load_state
"""
