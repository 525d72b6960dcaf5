"""Named evaluation and training protocols, with a fingerprint.

Scores of different protocols differ by factors, and silently so: sticky actions, life loss, no-op starts and frame caps
are therefore data that is stamped on every run, evaluation and saved agent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from rl_lab.checks import require_at_least, require_between, require_one_of, require_word
from rl_lab.errors import LabError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of the game: what an agent meets in training, and how it is evaluated."""

    name: str
    """The preset that the rules came from; the fingerprint tells whether they are still its rules."""
    sticky_probability: float = 0.0
    """Chance that the emulator repeats the previous action at each frame (Machado et al. 2018: 0.25)."""
    noop_max: int = 30
    """No-op frames at an episode's start: uniform from 0 to noop_max - 1, as ale-py draws them; 0 is none."""
    fire_reset: bool = False
    """Press FIRE once at an episode's start, in games that have it."""
    life_loss: str = "ignored"
    """ignored, or ends_return: in training a lost life is discount 0 while the game goes on."""
    full_action_set: bool = False
    """All 18 actions in place of the game's own."""
    max_frames_per_episode: int = 108_000
    """Emulator frames after which an episode is truncated (108,000 is 30 minutes of play)."""
    frame_skip: int = 4
    """Emulator frames for each agent step."""
    reward_clip: float = 1.0
    """Training rewards are clipped to +-reward_clip; 0 is no clipping. Scores are never clipped."""
    evaluation_epsilon: float = 0.05
    """Chance of a uniform random action in evaluation."""
    evaluation_episodes: int = 30
    """Full games in an evaluation of a saved agent. A matter of precision: not in the fingerprint."""

    def __post_init__(self) -> None:
        require_word(self, "name")
        require_between(self, 0, 1, "sticky_probability", "evaluation_epsilon")
        require_between(self, 0, 1_000, "noop_max")
        require_between(self, 1, 60, "frame_skip")
        require_between(self, 4 * self.frame_skip, 10_000_000, "max_frames_per_episode")
        require_at_least(self, 0, "reward_clip")
        require_at_least(self, 1, "evaluation_episodes")
        require_one_of(self, ("ignored", "ends_return"), "life_loss")

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits over every rule; equal fingerprints are comparable scores."""
        rules = dataclasses.asdict(self)
        del rules["name"], rules["evaluation_episodes"]
        # 1 and 1.0 are the same rule, but JSON writes them differently.
        for field in ("sticky_probability", "reward_clip", "evaluation_epsilon"):
            rules[field] = float(rules[field])
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """The preset's name, with the rules that differ from it."""
        preset = PROTOCOLS.get(self.name)
        changes = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if preset is None or getattr(self, field.name) != getattr(preset, field.name)
        ]
        return f"{self.name}({', '.join(changes)})" if changes else self.name


_PRESETS = (
    # Mnih et al. 2013, arXiv 1312.5602, section 5: epsilon 0.05 in evaluation, reward sign. No-op starts and life loss
    # are not mentioned there: read as none. The paper skips 3 frames in Space Invaders.
    Protocol(name="mnih2013", noop_max=0),
    # Mnih et al. 2015, Methods and Extended Data Table 1, in DQN Zoo's reading: discount 0 at a lost life, no-op
    # starts, 30 minutes of play. The paper's own evaluations stop at 5 minutes (18,000 frames).
    Protocol(name="nature2015", life_loss="ends_return"),
    # Machado et al. 2018 (JAIR 61) as Dopamine runs it: sticky actions, full games, the game's own actions, evaluation
    # epsilon 0.001. The article itself recommends all 18 actions and 18,000 frames.
    Protocol(name="machado2018", sticky_probability=0.25, noop_max=0, evaluation_epsilon=0.001),
    # RL Baselines3 Zoo's AtariWrapper on NoFrameskip-v4. There FIRE follows each lost life too and a lost life ends
    # the episode; here FIRE is pressed at the game's start only, and the lost life is discount 0. Evaluation epsilon
    # 0.01 is the exploration rate saved with the zoo's agents.
    Protocol(name="sb3_zoo", fire_reset=True, life_loss="ends_return", evaluation_epsilon=0.01),
    # The Atari 100k benchmark (Kaiser et al. 2020) with the rules of Dopamine's configs: 100 episodes, epsilon 0.001.
    Protocol(name="atari100k", life_loss="ends_return", evaluation_epsilon=0.001, evaluation_episodes=100),
)
PROTOCOLS: dict[str, Protocol] = {preset.name: preset for preset in _PRESETS}


def named_protocol(name: str) -> Protocol:
    """The preset called `name`; LabError with the nearest name otherwise."""
    if name not in PROTOCOLS:
        raise LabError(f"no protocol {name!r}{did_you_mean(name, PROTOCOLS)} (allowed: {', '.join(PROTOCOLS)})")
    return PROTOCOLS[name]
