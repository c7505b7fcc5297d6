"""A lock on a folder, so that two processes never write to it at the same time.

The operating system holds the lock and lets it go when its owner ends, however it ends. A killed owner therefore blocks
nobody. The lock is on a file in the folder, which also says who the owner is.

Some network file systems have no locks. There the file itself is the lock. It is taken over if its process has died on
this machine. Whether a process of another machine still runs cannot be known, so the user must then delete the file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import read_json

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""The errors of a file system that has no locks."""
HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
"""The errors that say that somebody else holds the lock."""
PATIENCE = 0.05  # seconds; somebody who only looks at a lock holds it for a shorter time
ATTEMPTS = 100
BEYOND = 2**30  # the byte that Windows locks; it is far behind the record, so that others can read the record


class Busy(InputError):
    """Another process holds the lock. The message says which one, and what to do."""


class Lock:
    """A lock that one process holds at a time, as a context manager. The object that holds it may enter it again.

    The folder is made if it does not exist. If nothing was written to it, it is removed again in the end.

    Args:
        path: file of the lock.
        task: what the owner does with the folder, e.g. ``trained``.
        advice: what somebody can do who does not get the lock.

    Raises:
        Busy: on entry, if another process holds the lock.
        InputError: on entry, if the folder cannot be written.
    """

    def __init__(self, path: Path, task: str = "written", advice: str = "wait until it is done") -> None:
        self.path, self.task, self.advice = path, task, advice
        self._depth, self._descriptor = 0, -1
        self._made: list[Path] = []

    def __enter__(self) -> Lock:
        if self._depth == 0:
            folder = self.path.parent
            try:
                self._made = [path for path in (folder, *folder.parents) if not path.exists()]
                self._take_at_last()
            except InputError:
                self._remove_folders()
                raise
            except (OSError, ValueError) as error:  # a path with a null character is a ValueError
                self._remove_folders()
                raise InputError(f"cannot write to {folder}: {getattr(error, 'strerror', None) or error}") from None
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        lost = self.lost  # then a file of this name is that of another owner
        self._depth -= 1
        if self._depth == 0:
            with suppress(OSError):  # Windows removes no open file; the file then stays and locks nothing
                if not lost:
                    self.path.unlink()
            os.close(self._descriptor)
            self._remove_folders()

    def check(self) -> None:
        """Refuse if another process holds the lock at this moment. This writes nothing.

        Raises:
            Busy: naming the other process.
        """
        if self._depth:
            return
        with suppress(OSError):  # there is no file, or it may not be read
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # which a pipe would wait for
            try:
                self._acquire(descriptor, shared=True)
            finally:
                os.close(descriptor)

    @property
    def lost(self) -> bool:
        """Whether the file of a lock that is held was moved, deleted or replaced, alone or with its folder."""
        try:
            return not os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return True

    def _take_at_last(self) -> None:
        """Take the lock, although earlier owners may remove its file and its folder at any moment."""
        for attempt in range(ATTEMPTS):
            try:
                if self._take():
                    return
            except (FileNotFoundError, FileExistsError):  # or something else stands in the place of the folder
                if attempt == ATTEMPTS - 1:
                    raise
        raise self._busy()

    def _take(self) -> bool:
        """Take the lock, and return whether its file is still the one that others see."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"{self.path} is a pipe or a device; remove it")
        owner = {"process": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        try:
            real = self._acquire(descriptor)
            if not self.path.exists() or not os.path.samestat(os.fstat(descriptor), self.path.stat()):
                os.close(descriptor)
                return False
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(owner).encode())
            if not real:
                time.sleep(4 * PATIENCE)
                if self._owner() != owner:
                    raise self._busy()  # two found the file free at once, and the other one wrote last
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def _acquire(self, descriptor: int, shared: bool = False) -> bool:
        """Get the lock on an open file. The result is False if the file system has none, and the record decides."""
        for wait in (True, False):
            try:
                _lock(descriptor, shared)
                return True
            except OSError as error:
                if error.errno in NO_LOCKS:
                    break
                if error.errno not in HELD:
                    raise
                if not wait:
                    raise self._busy() from None
                time.sleep(PATIENCE)
        owner = self._owner()
        if owner and not (owner.get("host") == socket.gethostname() and _is_dead(owner.get("process"))):
            raise self._busy(f"; if that process is gone, delete {self.path}")
        return False

    def _owner(self) -> dict[str, Any]:
        """The record of the owner; empty if there is none."""
        try:
            owner = read_json(self.path)
        except InputError:
            return {}
        return owner if isinstance(owner, dict) else {}

    def _busy(self, more: str = "") -> Busy:
        owner, who = self._owner(), "another process"
        if owner:
            who = f"process {owner.get('process')} on {owner.get('host')} since {owner.get('since')}"
        return Busy(f"{self.path.parent} is being {self.task} by {who}; {self.advice}{more}")

    def _remove_folders(self) -> None:
        for folder in self._made:
            with suppress(OSError, ValueError):  # it holds something, or is no path
                folder.rmdir()
        self._made = []


def _is_dead(process: Any) -> bool:
    """Whether no process with this number runs here. On Windows it is not asked, as the question would end it."""
    if not isinstance(process, int) or process <= 0 or sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # the number is none that a process can have
        return True
    except OSError:
        return False
    return False


def _lock(descriptor: int, shared: bool) -> None:
    """Take the operating system's lock on an open file, without waiting.

    Raises:
        OSError: if another process holds it, or if the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, BEYOND, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
