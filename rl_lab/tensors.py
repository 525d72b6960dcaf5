"""Tensors as bytes and back, in the format safetensors, checked against those expected before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rl_lab.errors import LabError
from rl_lab.saved import SavedFiles
from rl_lab.untrusted import TensorSpec, check_tensors

_HEADER_BYTES = 1 << 20
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def read_tensors(files: SavedFiles, name: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU; LabError unless their names, types and shapes are those of `like`."""
    expected = {key: TensorSpec(_DTYPES[tensor.dtype], tuple(tensor.shape)) for key, tensor in like.items()}
    data = files.read(name, max_bytes=sum(tensor.nbytes for tensor in like.values()) + _HEADER_BYTES)
    check_tensors(data, expected, name)
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise LabError(f"{name} is damaged: {error}") from error


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with a prefix, to keep several groups in one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The group with the prefix, under its own names."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
