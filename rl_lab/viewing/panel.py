"""The picture of a moment: the screen, three times as large, beside the score, the action and the values."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rl_lab.viewing.play import Moment

SCALE = 3
_WIDTH, _MARGIN = 360, 20
_BAR_LEFT, _BAR_RIGHT = 168, 274
_TOP_OF_VALUES = 226
_MOST_ROW_HEIGHT = 30
# Okabe and Ito 2008: told apart with any colour vision.
_ORANGE, _SKY_BLUE = (230, 159, 0), (86, 180, 233)
_BACKGROUND, _BRIGHT, _DIM = (18, 18, 18), (240, 240, 240), (150, 150, 150)


class Panel:
    """Draws frames of one game."""

    def __init__(self, title: str, subtitles: Sequence[str], actions: Sequence[str]) -> None:
        self._title, self._subtitles, self._actions = title, subtitles, actions
        self._bars = Bars()
        self._drawn: tuple[Moment, NDArray[np.uint8]] | None = None

    def picture(self, screen: NDArray[np.uint8], moment: Moment) -> NDArray[np.uint8]:
        """The whole picture for a screen [H, W, 3]: [3 H, 3 W + 360, 3], both even."""
        screen = screen if moment.saliency is None else with_saliency(screen, moment.saliency)
        large = screen.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        if self._drawn is None or self._drawn[0] is not moment:  # the frames of a step share it
            self._drawn = moment, np.asarray(self._draw(moment, len(large)))
        return np.concatenate([large, self._drawn[1]], axis=1)

    def _draw(self, moment: Moment, height: int) -> Image.Image:
        image = Image.new("RGB", (_WIDTH, height), _BACKGROUND)
        draw = ImageDraw.Draw(image)
        draw.text((_MARGIN, 16), self._title, _BRIGHT, _font(28))
        for row, subtitle in enumerate(self._subtitles):
            draw.text((_MARGIN, 54 + 20 * row), _fitted(subtitle, 15), _DIM, _font(15))
        numbers = {"score": f"{moment.score:.0f}", "step": moment.step, "episode": moment.episode}
        if moment.lives:
            numbers["lives"] = moment.lives
        for column, (name, number) in enumerate(numbers.items()):
            left = _MARGIN + 88 * column + (14 if column else 0)
            draw.text((left, 118), name, _DIM, _font(15))
            draw.text((left, 138), str(number), _BRIGHT, _font(24))
        self._draw_actions(draw, moment, height)
        return image

    def _draw_actions(self, draw: ImageDraw.ImageDraw, moment: Moment, height: int) -> None:
        """A row an action: its value, and a bar for how much it is worth more than the worst."""
        title = "action" if moment.values is None else "action, and its value"
        draw.text((_MARGIN, _TOP_OF_VALUES - 34), title, _DIM, _font(15))
        if moment.explores:
            draw.text((_WIDTH - _MARGIN, _TOP_OF_VALUES - 34), "random", _ORANGE, _font(15), anchor="ra")
        lengths = None if moment.values is None else self._bars.lengths(moment.values)
        row_height = min(_MOST_ROW_HEIGHT, (height - _TOP_OF_VALUES - 8) // len(self._actions))
        for index, action in enumerate(self._actions):
            chosen = index == moment.action
            colour = _ORANGE if chosen else _SKY_BLUE
            top = _TOP_OF_VALUES + row_height * index
            middle = top + row_height // 2
            if chosen:
                draw.polygon([(_MARGIN - 12, middle - 6), (_MARGIN - 12, middle + 6), (_MARGIN - 3, middle)], colour)
            draw.text((_MARGIN, middle), action, colour if chosen else _BRIGHT, _font(15), anchor="lm")
            if moment.values is not None and lengths is not None:
                right = _BAR_LEFT + round(lengths[index] * (_BAR_RIGHT - _BAR_LEFT))
                draw.rectangle((_BAR_LEFT, top + 4, max(right, _BAR_LEFT + 1), top + row_height - 4), colour)
                text = f"{moment.values[index]:.3f}"
                draw.text((_WIDTH - _MARGIN, middle), text, _BRIGHT, _font(15), anchor="rm")


class Bars:
    """Lengths of bars for the values of moments, one after another."""

    def __init__(self) -> None:
        self._largest_spread = 0.0

    def lengths(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[A], 0 for the worst action; 1 is the largest difference that was seen so far.

        Values themselves make equal bars: at each moment they differ by little beside what the game is worth.
        """
        self._largest_spread = max(self._largest_spread, float(np.ptp(values)))
        above_worst: NDArray[np.float32] = values - values.min()
        return above_worst / self._largest_spread if self._largest_spread > 0 else above_worst


def with_saliency(screen: NDArray[np.uint8], saliency: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The screen [H, W, 3], darkened, under blue light where the map [84, 84] is high."""
    height, width, _ = screen.shape
    resized = Image.fromarray(saliency).resize((width, height), Image.Resampling.BILINEAR)
    light = 0.65 * np.asarray(resized)[..., None]
    return (screen * (1 - light) * 0.6 + light * _SKY_BLUE).astype(np.uint8)


@functools.cache
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)  # Pillow's own: the same picture on all machines


def _fitted(text: str, pixels: int) -> str:
    """As much of the text as fits into the panel."""
    while _font(pixels).getlength(text) > _WIDTH - 2 * _MARGIN:
        text = text.removesuffix("...")[:-1] + "..."
    return text
