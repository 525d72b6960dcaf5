"""What an agent can be trained with or without, declared in its Config: so an ablation is a list of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = int | float | bool | str
"""Of a hyperparameter."""


@dataclass(frozen=True)
class Switch:
    """A part of an agent, and which fields of its Config belong to it."""

    name: str
    paper: str
    """Where the part comes from, in short."""
    field: str
    """The field that turns it on and off."""
    off: Value
    """That field's value without the part."""
    on: Value | None = None
    """That field's value with it; None: any but `off`."""
    settings: tuple[str, ...] = ()
    """Further fields, which do nothing without it."""
    instead: tuple[tuple[str, Value | None, Value], ...] = ()
    """Field, a value that only goes with the part (None: any), and the value to take in its place without it."""

    @property
    def fields(self) -> tuple[str, ...]:
        """All that belong to it."""
        return self.field, *self.settings

    def is_on(self, config: object) -> bool:
        """Whether an agent of this config has the part."""
        value = getattr(config, self.field)
        return bool(value != self.off if self.on is None else value == self.on)

    def turned_off(self, config: object) -> dict[str, Value]:
        """Field -> value, of all that changes in the config without the part."""
        replaced = {
            field: value
            for field, own, value in self.instead
            if own in (None, getattr(config, field)) and value != getattr(config, field)
        }
        return {self.field: self.off, **replaced}
