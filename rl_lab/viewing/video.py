"""A video file, written by PyAV (FFmpeg's libraries), which is an extra: `pip install 'rl-lab[video]'`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from numpy.typing import NDArray

from rl_lab.errors import LabError

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

ENCODERS = {".mp4": "libx264", ".mkv": "libx264", ".mov": "libx264", ".webm": "libvpx-vp9"}
"""For each kind of file the encoder by FFmpeg's name."""
# Fast rather than small; at these qualities text stays sharp. VP9 is constant quality at a bit rate of 0.
_ENCODER_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "28", "b": "0"},
}
_INSTALL = "install PyAV's own build from PyPI: pip install 'rl-lab[video]'"


def check_output(path: Path, *, overwrite: bool) -> None:
    """LabError where no video can be written there; asked before anything is played."""
    if path.suffix.lower() not in ENCODERS:
        raise LabError(f"{path} has the suffix {path.suffix!r}; allowed is one of {', '.join(ENCODERS)}")
    # Of os.path: pathlib raises for names that no file can have.
    if not os.path.isdir(path.parent):
        raise LabError(f"there is no folder {path.parent} for {path.name}; make it first")
    if os.path.isdir(path):
        raise LabError(f"{path} is a folder; give the name of a file")
    if os.path.exists(path) and not overwrite:
        raise LabError(f"{path} exists; give another name, or --overwrite")
    try:
        import av
    except ImportError as error:
        raise LabError(f"PyAV, which writes videos, cannot be imported ({error}); {_INSTALL}") from error
    encoder = ENCODERS[path.suffix.lower()]
    try:
        av.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise LabError(f"this build of PyAV has no encoder {encoder} for {path.suffix}; {_INSTALL}") from error


class VideoFile:
    """A video that is whole or absent: its frames go to a file beside it, which takes its name at the end."""

    def __init__(self, path: Path, *, frames_per_second: int, comment: str) -> None:
        """LabError where no file can be made."""
        import av

        self._path = path
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._frames_per_second, self._frame_class = frames_per_second, av.VideoFrame
        self._stream: VideoStream | None = None
        self.frames = 0
        """Written so far."""
        try:
            self._part.touch()  # FFmpeg would first try with the first frame
        except OSError as error:
            raise self._refusal(error) from error
        # Absolute: FFmpeg takes what stands before a colon for a protocol, but for a path's.
        self._container: OutputContainer = av.open(self._part.absolute(), "w")
        self._container.metadata["comment"] = comment

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                with contextlib.suppress(OSError):  # the disk that was full may be so still
                    self._container.close()
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append one picture [H, W, 3], of the size of the first; LabError where the disk refuses it."""
        if self._stream is None:
            self._stream = self._open_stream(*picture.shape[:2])
        try:
            self._container.mux(self._stream.encode(self._frame_class.from_ndarray(picture, format="rgb24")))
        except OSError as error:
            raise self._refusal(error) from error
        self.frames += 1

    def _open_stream(self, height: int, width: int) -> VideoStream:
        encoder = ENCODERS[self._path.suffix.lower()]
        added = self._container.add_stream(encoder, rate=self._frames_per_second, options=_ENCODER_OPTIONS[encoder])
        stream = cast("VideoStream", added)  # as of any video encoder
        # 4:2:0 is what every player plays; it takes even sides.
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        return stream

    def _finish(self) -> None:
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._part, self._path)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> LabError:
        return LabError(f"{self._path} cannot be written: {error.strerror}; give --out another folder")
