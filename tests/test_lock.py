"""A lock has one owner, names it to the others, and blocks nobody after its owner has ended, however it ended."""

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time

import pytest

import ndm
from ndm.support.lock import Busy, Lock


class Owner:
    """A forked process that holds a lock until it is killed."""

    def __init__(self, path):
        ready, tell = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            with Lock(path, "trained", "wait"):
                os.write(tell, b"!")
                time.sleep(60)
        os.read(ready, 1)
        self.ended = False

    def kill(self):
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.ended = True


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the lock."""
    process = Owner(tmp_path / "run" / ".lock")
    yield process
    process.kill()


def without_locks(monkeypatch):
    """A file system that has no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_the_loser_learns_who_the_owner_is_and_a_killed_owner_blocks_nobody(owner, tmp_path):
    lock = Lock(tmp_path / "run" / ".lock", "trained", "wait")
    for attempt in (lock.check, lock.__enter__):
        with pytest.raises(Busy) as refusal:
            attempt()
        message = str(refusal.value)
        assert f"run is being trained by process {owner.pid} on {socket.gethostname()} since 20" in message
        assert message.endswith("; wait") and "\n" not in message
    owner.kill()
    lock.check()
    with lock:
        assert json.loads(lock.path.read_text())["process"] == os.getpid()
    assert not (tmp_path / "run" / ".lock").exists()


def test_the_owner_may_enter_again_and_leaves_nothing(tmp_path):
    lock = Lock(tmp_path / "runs" / "new" / ".lock")
    with lock:
        with lock, pytest.raises(Busy):
            Lock(lock.path).__enter__()
        lock.check()
        with pytest.raises(Busy):
            Lock(lock.path).check()
    assert list(tmp_path.iterdir()) == []
    with lock:
        (lock.path.parent / "config.yaml").write_text("")
    assert [path.name for path in lock.path.parent.iterdir()] == ["config.yaml"]


def test_many_threads_take_turns(tmp_path):
    """The owner deletes the file, so an attempt may open one that is no longer there. Nobody is ever beside the owner.

    Folders come and go with the lock. 6 threads take it 15 times each.
    """
    inside, most, done = [0], [0], []

    def work():
        for _ in range(15):
            while True:
                try:
                    with Lock(tmp_path / "run" / ".lock"):
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                        inside[0] -= 1
                    break
                except Busy:
                    continue
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 6 and most[0] == 1


def test_a_file_that_its_last_owner_removes_before_it_is_locked_is_no_lock(tmp_path, monkeypatch):
    path, flock, calls = tmp_path / ".lock", fcntl.flock, []

    def late(descriptor, how):
        if not calls:
            path.unlink()
        calls.append(1)
        flock(descriptor, how)

    monkeypatch.setattr("fcntl.flock", late)
    with Lock(path), pytest.raises(Busy):
        Lock(path).__enter__()


def test_without_locks_of_the_system_the_record_decides(owner, tmp_path, monkeypatch):
    without_locks(monkeypatch)
    path = tmp_path / "run" / ".lock"
    with pytest.raises(Busy, match=f"process {owner.pid} .*; if that process is gone, delete {path}"):
        Lock(path).__enter__()
    owner.kill()
    with Lock(path), pytest.raises(Busy, match=f"process {os.getpid()}"):
        Lock(path).__enter__()
    path.write_text(json.dumps({"process": owner.pid, "host": "another.host", "since": "then"}))
    with pytest.raises(Busy, match="on another.host"):
        Lock(path).__enter__()
    path.write_text("")  # its owner was killed before it could write
    with Lock(path):
        pass


def test_two_that_find_no_owner_at_once_are_told_apart_by_the_last_record(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    record = json.dumps({"process": 1, "host": "another.host", "since": "now"})
    monkeypatch.setattr("time.sleep", lambda _: (tmp_path / ".lock").write_text(record))
    with pytest.raises(Busy, match="another.host"):
        Lock(tmp_path / ".lock").__enter__()


@pytest.mark.parametrize("kind", ["file for a folder", "folder for the file", "link elsewhere"])
def test_a_folder_that_cannot_be_locked_is_one_line(kind, tmp_path):
    path = tmp_path / "run" / ".lock"
    if kind == "file for a folder":
        (tmp_path / "run").write_text("mine")
    elif kind == "folder for the file":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        (tmp_path / "precious").write_text("mine")
        path.symlink_to(tmp_path / "precious")
    with pytest.raises(ndm.InputError, match="cannot write to .*run: "):
        Lock(path).__enter__()
    with pytest.raises(ndm.InputError, match="null"):
        Lock(tmp_path / "a\0b" / ".lock").__enter__()
    if kind == "link elsewhere":
        assert (tmp_path / "precious").read_text() == "mine"


def test_a_pipe_in_the_place_of_a_lock_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    os.mkfifo(path)
    Lock(path).check()
    with pytest.raises(ndm.InputError, match="is a pipe or a device; remove it"):
        Lock(path).__enter__()
    without_locks(monkeypatch)
    Lock(path).check()


def test_a_number_that_no_process_can_have_is_that_of_a_dead_owner(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"process": 2**70, "host": socket.gethostname(), "since": "then"}))
    with Lock(path):
        pass


def test_the_lock_of_another_owner_in_a_folder_that_took_the_place_is_left(tmp_path):
    path = tmp_path / "run" / ".lock"
    with Lock(path):
        (tmp_path / "run").rename(tmp_path / "moved")
        path.parent.mkdir()
        path.write_text("another")
    assert path.read_text() == "another"
