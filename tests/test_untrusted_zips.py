"""Zips of stable-baselines3 and torch from strangers: neither their pickles nor their sizes are believed."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN

from rl_lab.errors import LabError
from rl_lab.untrusted import read_torch_storages, read_zip
from tests.hostile import is_read, little_is_spent, mutations

SB3_MEMBERS = (
    *("data", "pytorch_variables.pth", "policy.pth", "policy.optimizer.pth"),
    *("_stable_baselines3_version", "system_info.txt"),
)


def torch_file(pickled: bytes, storages: Sequence[bytes] = (), compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save lays it out, with any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for index, content in enumerate(storages):
            archive.writestr(f"archive/data/{index}", content)
    return buffer.getvalue()


def saved_by_torch(objects: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(objects, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def small_sb3() -> tuple[bytes, dict[str, torch.Tensor]]:
    """A real file of SB3's with a small network, and the network's weights."""
    torch.set_num_threads(1)
    model = DQN("MlpPolicy", gymnasium.make("CartPole-v1"), policy_kwargs={"net_arch": [4]}, buffer_size=1, seed=0)
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue(), model.policy.state_dict()


def test_the_weights_of_a_file_of_sb3s_are_those_that_it_saved(
    small_sb3: tuple[bytes, dict[str, torch.Tensor]],
) -> None:
    data, weights = small_sb3
    policy = read_zip(data, SB3_MEMBERS, "it")["policy.pth"]
    storages = read_torch_storages(policy, saved_by_torch(weights), "it")
    assert storages == [tensor.numpy().tobytes() for tensor in weights.values()]


def test_a_damaged_file_of_sb3s_is_read_or_refused(small_sb3: tuple[bytes, dict[str, torch.Tensor]]) -> None:
    data, weights = small_sb3
    like = saved_by_torch(weights)
    read = [
        is_read(lambda: read_torch_storages(read_zip(damaged, SB3_MEMBERS, "it").get("policy.pth", b""), like, "it"))  # noqa: B023
        for damaged in mutations(data, 100)
    ]
    assert not all(read)


def test_a_damaged_file_of_torchs_is_read_as_expected_or_refused() -> None:
    weights = {"a.weight": torch.arange(6.0), "a.bias": torch.zeros(2)}
    like = saved_by_torch(weights)
    read = []
    for damaged in mutations(like, 200):
        read.append(is_read(lambda: read_torch_storages(damaged, like, "it")))  # noqa: B023
        if read[-1]:
            assert [len(storage) for storage in read_torch_storages(damaged, like, "it")] == [24, 8]
    assert any(read)
    assert not all(read)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_pickle_in_place_of_weights_is_refused(pickled: bytes) -> None:
    assert not is_read(lambda: read_torch_storages(torch_file(pickled), saved_by_torch({"a": torch.zeros(1)}), "it"))


@pytest.mark.parametrize("device", ["cuda:0", "mps", "xpu:1"])
def test_weights_that_were_saved_on_a_gpu_are_read(device: str) -> None:
    like = saved_by_torch({"a.weight": torch.ones(1), "a.bias": torch.zeros(2)})
    pickled = zipfile.ZipFile(io.BytesIO(like)).read("archive/data.pkl")
    place = b"X" + struct.pack("<I", len(device)) + device.encode()
    foreign = pickled.replace(b"X\x03\x00\x00\x00cpu", place)
    assert foreign != pickled
    storages = [np.float32(5).tobytes(), bytes(8)]
    assert read_torch_storages(torch_file(foreign, storages), like, "it") == storages


GREEDY_PICKLES = {
    # bytearray(2_000_000_000), which torch's restricted unpickler takes for harmless
    "memory": b"\x80\x02cbuiltins\nbytearray\n\x8a\x04\x00\x94\x35\x77\x85R.",
    # {a tuple of twice a tuple of twice ... 60 levels: 1}: its hash visits 2**60 tuples
    "time": b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"K\x01s.",
    "index": b"\x80\x02)r\xff\xff\xff\x7f.",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pickled", GREEDY_PICKLES.values(), ids=GREEDY_PICKLES)
def test_a_pickle_that_would_take_all_memory_or_time_is_refused(pickled: bytes) -> None:
    like = saved_by_torch({"a": torch.zeros(1)})
    with little_is_spent():
        assert not is_read(lambda: read_torch_storages(torch_file(pickled), like, "it"))


@pytest.mark.parametrize("declared", [64 << 20, 5])
def test_a_compressed_bomb_is_refused_outside_and_inside(declared: int) -> None:
    inner = torch_file(b"", [bytes(64 << 20)], zipfile.ZIP_DEFLATED)
    assert len(inner) < 100_000
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(64 << 20))
    inner_zip, outer_zip = (
        data.replace(struct.pack("<I", 64 << 20), struct.pack("<I", declared)) for data in (inner, outer.getvalue())
    )
    like = saved_by_torch({"a": torch.zeros(1)})
    with little_is_spent(megabytes=2):
        assert not is_read(lambda: read_torch_storages(inner_zip, like, "it"))
        assert not is_read(lambda: read_zip(outer_zip, SB3_MEMBERS, "it"))


@pytest.mark.parametrize("size", [2**32 - 2, 1_000_000, 5])
def test_a_zip_that_declares_more_or_less_than_it_has_is_refused(size: int) -> None:
    like = saved_by_torch({"a": torch.zeros(1)})
    entry_at = like.rindex(b"archive/data/0") - 46
    lying = bytearray(like)
    lying[entry_at + 20 : entry_at + 28] = struct.pack("<II", size, size)
    with little_is_spent():
        assert not is_read(lambda: read_torch_storages(bytes(lying), like, "it"))


def test_members_inside_one_another_are_refused_before_they_are_read() -> None:
    def nested(count: int) -> bytes:
        """A zip of `count` stored members: each is all that comes after its own header, a megabyte at the end."""
        members, content = [], bytes(1 << 20)
        for index in range(count):
            member = zipfile.ZipInfo(f"{index:03}")
            member.file_size = member.compress_size = len(content)
            member.CRC = zlib.crc32(content)
            members.append(member)
            content = member.FileHeader() + content
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            buffer.write(content)
            archive.start_dir = len(content)
            archive.comment = b"makes it write its directory"
            for member in members:
                member.header_offset = len(content) - member.file_size - len(member.FileHeader())
                archive.filelist.append(member)
        return buffer.getvalue()

    names = [f"{index:03}" for index in range(100)]
    assert is_read(lambda: read_zip(nested(1), names, "it"))
    bomb = nested(100)
    with little_is_spent(megabytes=8):
        assert not is_read(lambda: read_zip(bomb, names, "it"))


def test_members_beyond_number_are_refused_before_they_are_listed() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(20_000):
            archive.writestr(f"{index}", b"")
    data = buffer.getvalue()
    with little_is_spent(megabytes=4), pytest.raises(LabError, match="more than 1000 members"):
        read_zip(data, SB3_MEMBERS, "it")


@pytest.mark.parametrize("name", ["../data", "/data", "data/", "other.pth"])
def test_a_member_that_sb3_does_not_write_is_refused(name: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr(zipfile.ZipInfo(name), "x")
    with pytest.raises(LabError, match="it holds an unknown member"):
        read_zip(buffer.getvalue(), SB3_MEMBERS, "it")


def test_a_member_that_comes_twice_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("dat_", "{}")
    data = buffer.getvalue().replace(b"dat_", b"data")
    with pytest.raises(LabError, match="it holds a member twice"):
        read_zip(data, SB3_MEMBERS, "it")
