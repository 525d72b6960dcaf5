"""A model of stable-baselines3 as files: its own zip, read without running the pickles inside, and what that lacks."""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from rl_lab.errors import LabError
from rl_lab.saved import SavedFiles
from rl_lab.untrusted import parse_json, read_torch_storages, read_zip

STATE, LEARNER = "state.json", "learner.safetensors"
_MODEL = "model.zip"
_MAX_MODEL_BYTES = 256 << 20
_MAX_SETTINGS_BYTES = 16 << 20
"""The last observations are among them, twice: 75 kB a game of some 200."""
_MODEL_MEMBERS = (
    *("data", "pytorch_variables.pth", "policy.pth", "policy.optimizer.pth"),
    *("_stable_baselines3_version", "system_info.txt"),
)
"""What SB3 2.9 writes into a model.zip."""


def save_model(model: BaseAlgorithm) -> dict[str, bytes]:
    """model.zip, as SB3 saves it: with pickles inside, which SB3's `load` runs and `load_weights` does not read."""
    file = io.BytesIO()
    model.save(file)
    return {_MODEL: file.getvalue()}


def load_weights(policy: BasePolicy, files: SavedFiles, network: str) -> None:
    """Read the networks of model.zip; neither SB3 nor torch's unpickler sees it.

    LabError for another network than the policy's, which is described by `network`, and for one that is not finite.
    """
    data = files.read(_MODEL, max_bytes=_MAX_MODEL_BYTES)
    weights = _read_weights(data, cast("OrderedDict[str, Tensor]", policy.state_dict()), network)
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise LabError(f"{_MODEL}: a weight is not finite: its training diverged, or it is damaged")
    policy.load_state_dict(weights)


def read_settings(files: SavedFiles) -> dict[str, Any]:
    """The JSON of model.zip: the model's attributes, of which pickles stay text; LabError for what is none."""
    members = read_zip(files.read(_MODEL, max_bytes=_MAX_MODEL_BYTES), _MODEL_MEMBERS, _MODEL)
    data = members.get("data", b"")
    if len(data) > _MAX_SETTINGS_BYTES:
        raise LabError(f"{_MODEL}: data is larger than {_MAX_SETTINGS_BYTES:,} bytes")
    return parse_json(data, f"{_MODEL}: data")


def silence(model: BaseAlgorithm) -> None:
    """Give it a logger that writes nothing: SB3's default one makes a directory in the system's temporary one."""
    model.set_logger(Logger(folder=None, output_formats=[]))


def numpy_state() -> list[int | float]:
    """Of numpy's global generator, from which SB3 draws: 624 words, position, has_gauss, gauss."""
    name, words, *place = cast("tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state(legacy=True))
    assert name == "MT19937", name
    return [*words.tolist(), *place]


def restore_numpy(state: object) -> None:
    """Let numpy's global generator go on from a `numpy_state`.

    LabError for what is none: numpy takes any position, and reads there, beyond its memory.
    """
    match state:
        case [*words, int(position), int(has_gauss), float(gauss)] if (
            len(words) == 624
            and all(type(word) is int and 0 <= word < 2**32 for word in words)
            and 0 <= position <= len(words)
            and has_gauss in (0, 1)
        ):
            np.random.set_state(("MT19937", np.array(words, np.uint32), position, has_gauss, gauss))
        case _:
            raise LabError(f"{STATE} is damaged: numpy is no state of its global generator")


def torch_state(device: torch.device) -> str:
    """Of torch's global generator on the device, from which SB3 draws: its bytes in hexadecimal digits."""
    state = torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)
    return state.numpy().tobytes().hex()


def restore_torch(state: object, device: torch.device) -> None:
    """Let torch's global generator go on from a `torch_state`; LabError for what is none, which torch refuses."""
    try:
        data = bytearray.fromhex(cast("str", state))
        words = torch.frombuffer(data, dtype=torch.uint8)
        if device.type == "cpu":
            _, left, _, position = struct.unpack_from("<QiiQ", data)
            if left < 1 or left + position > 625:  # of 624 words; torch would read beyond them
                raise ValueError
            torch.set_rng_state(words)
        else:
            torch.cuda.set_rng_state(words, device)
    except (TypeError, ValueError, RuntimeError, struct.error) as error:
        raise LabError(f"{STATE} is damaged: torch is no state of its global generator") from error


def logged_values(model: BaseAlgorithm) -> dict[str, float]:
    """What SB3 recorded last, by its tags."""
    return {tag: float(value) for tag, value in model.logger.name_to_value.items()}


def restore_logged_values(model: BaseAlgorithm, logged: object) -> None:
    """Let it have recorded `logged_values`; LabError for what is none."""
    if not isinstance(logged, dict) or not all(isinstance(value, float) for value in logged.values()):
        raise LabError(f"{STATE} is damaged: it does not say what was logged last")
    model.logger.name_to_value.update(logged)


def _read_weights(model_zip: bytes, own: OrderedDict[str, Tensor], network: str) -> dict[str, Tensor]:
    """The policy's weights in a file of SB3's, named and shaped as `own`; LabError where it holds no such policy."""
    members = read_zip(model_zip, _MODEL_MEMBERS, _MODEL)
    refusals = []
    for layout in _layouts(own):
        like = io.BytesIO()
        torch.save(layout, like)
        try:
            storages = read_torch_storages(members.get("policy.pth", b""), like.getvalue(), f"{_MODEL}: policy.pth")
        except LabError as error:
            refusals.append(error)
        else:
            break
    else:
        raise LabError(f"{refusals[0]}; allowed is the network of {network}") from refusals[0]
    # Tensors may share a storage: PPO has one torso under three names.
    addresses = list(dict.fromkeys(tensor.untyped_storage().data_ptr() for tensor in own.values()))
    stored = dict(zip(addresses, map(bytearray, storages), strict=True))
    return {
        name: torch.frombuffer(stored[tensor.untyped_storage().data_ptr()], dtype=tensor.dtype).as_strided(
            tensor.shape, tensor.stride()
        )
        for name, tensor in own.items()
    }


def _layouts(own: OrderedDict[str, Tensor]) -> Iterator[OrderedDict[str, Tensor]]:
    """The policy's state as SB3 saves it now, and PPO's as it did before 1.8 and before 1.7: of the same storages."""
    yield own
    metadata: dict[str, dict[str, object]] = own._metadata  # type: ignore[attr-defined]  # torch's, of each module
    if "mlp_extractor.policy_net" not in metadata:
        return
    # A part that policy and values shared, empty here; and before 1.7 the torso had one name of its three.
    for aliases in ((), ("pi_features_extractor", "vf_features_extractor")):
        older = OrderedDict((name, tensor) for name, tensor in own.items() if not name.startswith(aliases))
        modules: OrderedDict[str, dict[str, object]] = OrderedDict()
        for name, about in metadata.items():
            if name == "mlp_extractor.policy_net":
                modules["mlp_extractor.shared_net"] = dict(about)
            if not name.startswith(aliases):
                modules[name] = about
        older._metadata = modules  # type: ignore[attr-defined]
        yield older
