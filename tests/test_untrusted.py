"""Files from strangers: whatever is in them, they are read or refused in one line, soon and in little memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl_lab.cli.main import main
from rl_lab.config import read_toml
from rl_lab.errors import LabError
from rl_lab.records import last_evaluation, read_config, read_records, read_status
from rl_lab.untrusted import (
    TensorSpec,
    check_tensors,
    pack_arrays,
    parse_json,
    read_bytes,
    unpack_arrays,
)
from tests.hostile import is_read, little_is_spent, mutations
from tests.runs import train
from tests.tiny import tiny_experiment

ARRAYS: dict[str, NDArray[Any]] = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "steps": np.array([7], dtype=np.int64),
}
SPECS = {"weights": TensorSpec("F32", (2, 3)), "steps": TensorSpec("I64", (None,))}

fuzzed = settings(max_examples=150, deadline=None)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def safetensors_file(header: str | bytes, data: bytes = b"", header_bytes: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(encoded) if header_bytes is None else header_bytes) + encoded + data


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (8, 32)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD_HEADER = {"weights": entry(), "steps": entry("I64", [1], [0, 8])}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run."""
    return train(tiny_experiment(log_every_steps=10), tmp_path_factory.mktemp("runs")).run


# What a path may be


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "device", "folder", "missing", "too large", "nul"])
def test_only_a_regular_file_of_the_allowed_size_is_read(kind: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "file", tmp_path / "whole"
    whole.write_bytes(b"{}")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(whole)
        case "dangling link":
            path.symlink_to(tmp_path / "absent")
        case "device":
            path = Path("/dev/zero")
        case "folder":
            path.mkdir()
        case "too large":
            path.touch()
            os.truncate(path, 1 << 40)  # a terabyte, of which the disk holds nothing
        case "nul":
            path = tmp_path / "a\0b"
    open_files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with little_is_spent():
        assert not is_read(lambda: read_bytes(path, max_bytes=100))
        assert not is_read(lambda: read_toml(path)) or kind == "link"
    if open_files:
        assert len(os.listdir("/proc/self/fd")) == open_files
    assert read_bytes(whole, max_bytes=2) == b"{}"
    assert not is_read(lambda: read_bytes(whole, max_bytes=1))


# JSON and TOML


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 1_000_000,
        '{"a":' + "[" * 60 + "]" * 60 + "}",
        '{"a":' + "[" * 900 + "]" * 900 + "}",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": 1' + "0" * 5_000 + "}",
        '{"a": 1' + "0" * 100 + "}",
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": 1, "a": 2}',
        "[]",
        "",
        "\ufeff{}",
    ],
    ids=lambda text: text[:30],
)
def test_json_that_the_lab_would_never_write_is_refused(text: str) -> None:
    with little_is_spent(megabytes=100):
        assert not is_read(lambda: parse_json(text, "it"))


@fuzzed
@given(st.binary(max_size=40) | st.text(max_size=40) | json_values.map(json.dumps))
def test_json_is_an_object_that_can_be_shown_or_refused(text: str | bytes) -> None:
    try:
        table = parse_json(text, "it")
    except LabError:
        return
    assert table == json.loads(text)
    json.dumps(table, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[\n" * 20_000,
        "a = " + "{b = " * 100,
        "a = " + "[" * 60 + "]" * 60,
        ".".join("a" * 30_000) + " = 1",
        "\n".join(f"{'.'.join('a' * 400)}.b{line} = 1" for line in range(70)),
        "[" + ".".join("a" * 400) + "]",
        "a = 0x" + "f" * 900,
        "a = 1" + "0" * 990,
        'a = """' + "0\n" * 40_000 + '"""',
        "a = 0x" + "f" * 60_000,
        "a = 2000-13-01",
    ],
    ids=lambda text: text[:20],
)
def test_toml_that_no_experiment_is_written_in_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with little_is_spent():
        assert not is_read(lambda: read_toml(path))


@fuzzed
@given(st.binary(max_size=60) | st.text(alphabet="[]{}=.,\"'\\\n 01aeinfx_#-:TZ", max_size=60))
def test_toml_is_read_or_refused(content: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        is_read(lambda: read_toml(path))


# Records of a run


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("status.json", read_status),
        ("config.toml", read_config),
        ("evaluations.jsonl", last_evaluation),
        ("metrics.jsonl", lambda run: read_records(run / "metrics.jsonl")),
        ("episodes.jsonl", lambda run: read_records(run / "episodes.jsonl")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_record_is_read_or_refused(
    name: str, load: Callable[[Path], object], run: Path, tmp_path: Path
) -> None:
    whole = (run / name).read_bytes()
    (tmp_path / name).write_bytes(whole)
    load(tmp_path)
    read = []
    for damaged in mutations(whole, 150):
        (tmp_path / name).write_bytes(damaged)
        read.append(is_read(lambda: load(tmp_path)))
    assert not all(read)


@fuzzed
@given(st.dictionaries(st.sampled_from(["state", "reason", "steps", "frames", "pid", "process_start"]), json_values))
def test_any_object_as_a_status_is_read_or_refused(table: dict[str, Any]) -> None:
    whole = {"state": "finished", "reason": "", "steps": 1, "frames": 4, "pid": 1, "process_start": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "status.json").write_text(json.dumps({**whole, **table}))
        is_read(lambda: read_status(Path(folder)).is_live)


def test_a_record_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": "\u2028"}\n{"a"')
    assert read_records(path) == [{"a": 1}, {"a": "\u2028"}]


def test_the_line_of_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(LabError, match=r"metrics\.jsonl line 2 is no readable JSON"):
        read_records(path)


def test_a_records_size_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    for name in ("status.json", "evaluations.jsonl"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 40)
    with little_is_spent():
        assert not is_read(lambda: read_status(tmp_path))
        assert not is_read(lambda: last_evaluation(tmp_path))


def test_no_escape_sequence_of_a_run_reaches_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = {"state": "failed", "steps": 1, "frames": 4, "pid": 1, "process_start": 0.0}
    (tmp_path / "config.toml").touch()
    (tmp_path / "status.json").write_text(json.dumps({**status, "reason": "\x1b]0;title\x07\nétat"}))
    assert main(["list", "runs", "--runs", str(tmp_path)]) == 0
    assert r"failed (\x1b]0;title\x07 état)" in capsys.readouterr().out


# safetensors


def test_packed_arrays_come_back_the_same() -> None:
    transposed = {**ARRAYS, "weights": np.asfortranarray(ARRAYS["weights"])}
    unpacked = unpack_arrays(pack_arrays(transposed), SPECS, "it")
    assert unpacked.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert unpacked[name].dtype == array.dtype
        assert np.array_equal(unpacked[name], array)


def test_the_header_of_the_other_tests_is_good() -> None:
    check_tensors(safetensors_file(json.dumps(GOOD_HEADER), bytes(32)), SPECS, "it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "weights is no tensor; it is F32 \\[2, 3\\]"),
        ({"weights": entry("F64")}, "weights is F64 .*allowed is F32 \\[2, 3\\]"),
        ({"weights": entry("float")}, "weights is float"),
        ({"weights": entry(shape=[3, 2])}, "weights is F32 \\[3, 2\\]; allowed is F32 \\[2, 3\\]"),
        ({"weights": entry(shape=[6])}, "weights is F32 \\[6\\]"),
        ({"weights": entry(shape=[-2, -3])}, "weights is F32 \\[-2, -3\\]"),
        ({"weights": entry(shape=[2.0, 3])}, "weights is F32 \\[2.0, 3\\]"),
        ({"steps": entry("I64", [True], [0, 8])}, "steps is I64 \\[True\\]"),
        ({"steps": entry("I64", [2**61], [0, 8])}, "steps is damaged: I64 \\[any\\] does not fit"),
        ({"steps": entry("I64", [-1], [0, 8])}, "steps is I64 \\[-1\\]"),
        ({"steps": entry("I64", [0], [0, 0])}, "overlap or leave gaps"),
        ({"weights": entry(offsets=[0, 24])}, "overlap or leave gaps"),
        ({"weights": entry(offsets=[16, 40])}, "overlap or leave gaps"),
        ({"weights": entry(offsets=[-24, 0])}, "does not fit its place"),
        ({"weights": entry(offsets=[32, 8])}, "does not fit its place"),
        ({"weights": entry(offsets=[2**64, 2**64 + 24])}, "overlap or leave gaps"),
        ({"weights": entry(offsets=[8])}, "weights is no tensor"),
        ({"more": entry(offsets=[32, 56])}, "holds an unknown tensor 'more' \\(allowed: weights, steps\\)"),
    ],
    ids=str,
)
def test_a_tensor_that_is_not_as_expected_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        check_tensors(safetensors_file(json.dumps({**GOOD_HEADER, **change}), bytes(32)), SPECS, "it")


def test_a_missing_tensor_is_named_with_what_it_is() -> None:
    with pytest.raises(LabError, match=r"it lacks the tensor 'weights': F32 \[2, 3\]"):
        check_tensors(safetensors_file(json.dumps({"steps": entry("I64", [1], [0, 8])}), bytes(8)), SPECS, "it")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        safetensors_file("", header_bytes=2**63),
        safetensors_file("{}", header_bytes=2**64 - 1),
        safetensors_file("{}", header_bytes=3),
        safetensors_file('{"a":' * 100_000),
        safetensors_file(" " * (1 << 21) + "{}"),
        safetensors_file(json.dumps(GOOD_HEADER), bytes(31)),
        safetensors_file(json.dumps(GOOD_HEADER), bytes(33)),
        safetensors_file(json.dumps(GOOD_HEADER)[:-1] + ', "steps": 1}', bytes(32)),
        safetensors_file(b"\xff\xfe"),
        pickle.dumps(ARRAYS),
    ],
    ids=lambda data: repr(data[:16]),
)
def test_bytes_that_are_no_whole_safetensors_file_are_refused(data: bytes) -> None:
    with little_is_spent():
        assert not is_read(lambda: check_tensors(data, SPECS, "it"))


odd_integers = st.integers(-3, 40) | st.sampled_from([2**31, 2**61, 2**63, 2**64, True, 2.0, "8", None])
odd_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BOOL", "F99", 3]),
        "shape": st.lists(odd_integers, max_size=3),
        "data_offsets": st.lists(odd_integers, min_size=1, max_size=3),
    }
)


@fuzzed
@given(
    st.dictionaries(st.sampled_from(["weights", "steps", "__metadata__"]), odd_entries | json_values),
    st.integers(0, 40),
)
def test_what_the_check_lets_through_loads_as_expected(header: dict[str, Any], data_bytes: int) -> None:
    _loads_as_expected(safetensors_file(json.dumps({**GOOD_HEADER, **header}), bytes(data_bytes)))


def test_a_damaged_safetensors_file_is_read_as_expected_or_refused() -> None:
    read = [_loads_as_expected(damaged) for damaged in mutations(pack_arrays(ARRAYS), 300)]
    assert any(read)  # a flipped bit of a weight
    assert not all(read)


def _loads_as_expected(data: bytes) -> bool:
    if not is_read(lambda: unpack_arrays(data, SPECS, "it")):
        return False
    arrays = safetensors.numpy.load(data)
    assert arrays["weights"].shape == (2, 3)
    assert arrays["weights"].dtype == np.float32
    assert arrays["steps"].ndim == 1
    return True
