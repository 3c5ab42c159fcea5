"""Files of tensors, as safetensors reads them, and the thread that writes them while training goes on."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'fust[tune]')")

from safetensors.torch import load_file  # noqa: E402

from fust.tune import saver, tensor_file  # noqa: E402
from fust.tune.checkpoints import State, find_checkpoint  # noqa: E402
from fust.tune.saver import Saver  # noqa: E402
from fust.tune.tensor_file import write_tensors  # noqa: E402

BLOCK = tensor_file._BLOCK_BYTES


def tensors_of(values: int) -> dict[str, torch.Tensor]:
    return {
        "half": torch.arange(7).to(torch.bfloat16),
        "large": torch.arange(values, dtype=torch.float32),
        "turned": torch.arange(12.0).view(3, 4).t(),
        "one": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
        "whole/numbers": torch.tensor([[1, -2]]),
        "flags": torch.tensor([True, False, True]),
    }


def check(path, tensors, found):
    data = path.read_bytes()
    assert found == (len(data), hashlib.sha256(data).hexdigest())
    read = load_file(path)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


# A file that ends before, at and behind the end of a block: the header takes some of the first one.
@pytest.mark.parametrize("values", [1, 1000, BLOCK // 4 - 100, BLOCK // 4, BLOCK // 2 + 3, 3 * BLOCK // 4])
def test_what_is_written_is_what_safetensors_reads(values, tmp_path):
    tensors = tensors_of(values)
    check(tmp_path / "file", tensors, write_tensors(tmp_path / "file", tensors))


def test_a_file_that_ends_with_a_block_is_whole(tmp_path):
    size, _ = write_tensors(tmp_path / "first", {"it": torch.zeros(BLOCK // 4, dtype=torch.float32)})
    tensors = {"it": torch.rand((2 * BLOCK - (size - BLOCK)) // 4)}
    found = write_tensors(tmp_path / "second", tensors)
    assert found[0] == 2 * BLOCK
    check(tmp_path / "second", tensors, found)


@pytest.mark.parametrize("fails_at", ["open", "write"])
def test_a_file_system_without_direct_writes_gets_the_same_file(fails_at, tmp_path, monkeypatch):
    real, refused = getattr(os, fails_at), []

    def refuse(target, given, *more):
        flags = given if fails_at == "open" else tensor_file.fcntl.fcntl(target, tensor_file.fcntl.F_GETFL)
        if flags & os.O_DIRECT:
            refused.append(fails_at)
            raise OSError(errno.EINVAL, "no such writes here")
        return real(target, given, *more)

    monkeypatch.setattr(tensor_file.os, fails_at, refuse)
    tensors = tensors_of(BLOCK // 2)
    found = write_tensors(tmp_path / "file", tensors)
    monkeypatch.undo()
    assert refused == [fails_at]
    check(tmp_path / "file", tensors, found)


def test_writes_that_end_early_go_on(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(tensor_file.os, "write", lambda file, data: real(file, data[:1_000_001]))
    tensors = tensors_of(BLOCK // 2)
    found = write_tensors(tmp_path / "file", tensors)
    monkeypatch.undo()
    check(tmp_path / "file", tensors, found)


def test_a_checkpoint_holds_what_was_so_when_it_was_begun(tmp_path):
    state, saving = State(step=3, tokens=7), Saver(tmp_path)
    assert saving.wait() is None
    saving.begin("key", {"w": torch.ones(3)}, {}, state)
    state.step, state.tokens = 4, 9
    assert (cost_s := saving.wait()) is not None and cost_s > 0
    assert saving.wait() is None
    found, _ = find_checkpoint(tmp_path, "key")
    assert found is not None and (found.state.step, found.state.tokens) == (3, 7)


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_waited_for(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(saver, "save_checkpoint", fails)
    saving = Saver(tmp_path)
    saving.begin("key", {}, {}, State())
    with pytest.raises(OSError, match="the disk is broken"):
        saving.wait()
    assert saving.wait() is None
