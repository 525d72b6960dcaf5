"""A protocol's fingerprint stands for its rules, and rules that no emulator can follow are refused by name."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rl_lab.atari import PROTOCOLS, Protocol, named_protocol
from rl_lab.errors import LabError

NATURE = PROTOCOLS["nature2015"]

OTHER_RULES: dict[str, str | float] = {
    "sticky_probability": 0.25,
    "noop_max": 7,
    "fire_reset": True,
    "life_loss": "ignored",
    "full_action_set": True,
    "max_frames_per_episode": 18_000,
    "frame_skip": 3,
    "reward_clip": 0.0,
    "evaluation_epsilon": 0.001,
}
"""For each rule a value that is not NATURE's."""
NOT_RULES: dict[str, str | float] = {"name": "other", "evaluation_episodes": 7}


def changed(field: str, value: str | float) -> Protocol:
    return dataclasses.replace(NATURE, **{field: value})  # type: ignore[arg-type]  # the field's own type


def test_every_field_is_a_rule_or_known_not_to_be_one() -> None:
    assert {field.name for field in dataclasses.fields(Protocol)} == {*OTHER_RULES, *NOT_RULES}


# Published results are compared by these: a changed fingerprint makes every earlier run incomparable.
@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("mnih2013", "f125c8daf204"),
        ("nature2015", "948d0f247801"),
        ("machado2018", "26025c507147"),
        ("sb3_zoo", "f385ad0558c6"),
        ("atari100k", "deda566f2b8e"),
    ],
)
def test_fingerprint_of_a_preset_is_as_it_ever_was(name: str, fingerprint: str) -> None:
    assert named_protocol(name).fingerprint == fingerprint


def test_presets_have_five_different_fingerprints() -> None:
    assert len({preset.fingerprint for preset in PROTOCOLS.values()}) == len(PROTOCOLS) == 5


@pytest.mark.parametrize("field", OTHER_RULES)
def test_fingerprint_changes_with_each_rule(field: str) -> None:
    assert changed(field, OTHER_RULES[field]).fingerprint != NATURE.fingerprint


@pytest.mark.parametrize("field", NOT_RULES)
def test_fingerprint_does_not_depend_on_what_is_no_rule(field: str) -> None:
    assert changed(field, NOT_RULES[field]).fingerprint == NATURE.fingerprint


@pytest.mark.parametrize("field", ["sticky_probability", "reward_clip", "evaluation_epsilon"])
def test_whole_number_written_without_a_point_has_the_same_fingerprint(field: str) -> None:
    assert changed(field, 1).fingerprint == changed(field, 1.0).fingerprint


def test_label_of_a_preset_is_its_name() -> None:
    assert [preset.label for preset in PROTOCOLS.values()] == list(PROTOCOLS)


def test_label_names_the_changed_rules() -> None:
    protocol = dataclasses.replace(NATURE, frame_skip=3, full_action_set=True)
    assert protocol.label == "nature2015(full_action_set=True, frame_skip=3)"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_preset_is_found_by_its_name(name: str) -> None:
    assert named_protocol(name).name == name


def test_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LabError, match="no protocol 'nature2016'; did you mean 'nature2015'"):
        named_protocol("nature2016")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sticky_probability", -0.1),
        ("sticky_probability", 1.5),
        ("sticky_probability", math.nan),
        ("noop_max", -5),
        ("noop_max", 1_001),
        ("frame_skip", 0),
        ("frame_skip", 61),
        ("max_frames_per_episode", 15),
        ("max_frames_per_episode", 10_000_001),
        ("evaluation_epsilon", 2.0),
        ("evaluation_epsilon", math.nan),
        ("evaluation_episodes", 0),
        ("life_loss", "ends_episode"),
        ("reward_clip", math.nan),
        ("reward_clip", math.inf),
        ("reward_clip", -1.0),
    ],
)
def test_impossible_rule_is_refused_by_its_name(field: str, value: str | float) -> None:
    with pytest.raises(LabError, match=f"{field} is {value!r}; allowed is "):
        changed(field, value)
