"""Compiled objects kept on disk by content: what was compiled once is loaded from then on.

A cache folder holds objects, each named by the checksum of its content (`graphc-<sha256>.so`, or
`.cubin` for a GPU's), and notes, short texts by name. The note of a key names the key's object. One
rename publishes a file, and its name tells what must be in it: processes need no lock, of two that
build the same object both succeed, and a file that was cut, changed or put there by somebody else
is not loaded but built again. Nothing is flushed to the disk for the same reason.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from graphc.errors import BackendUnavailable

FORMAT = "1"  # of the files; part of each key
VARIABLE = "GRAPHC_CACHE_DIR"
MAX_NBYTES = 256 << 20
# A file used within this time is not removed: some process may be about to load it.
GRACE_SECONDS = 600.0
OWN_NAME = re.compile(
    r"graphc-[\w-]+\.(so|cubin|note|part)"
)  # the folder may hold other files, too
DIGEST = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


def content_key(*parts: str) -> str:
    """The name of what is made from these texts: 64 hexadecimal digits."""
    digest = hashlib.sha256(FORMAT.encode())
    for part in parts:
        content = part.encode()
        digest.update(b"%d:" % len(content))  # so that ("ab", "c") is not ("a", "bc")
        digest.update(content)
    return digest.hexdigest()


def object_cache() -> ObjectCache:
    """The cache of this process: in the folder GRAPHC_CACHE_DIR, else in the user's cache folder.

    Raises BackendUnavailable where not even a temporary folder can be made.
    """
    return _cache_in(os.environ.get(VARIABLE, ""))


@functools.cache
def _cache_in(chosen: str) -> ObjectCache:
    if chosen:
        return ObjectCache(Path(chosen).absolute())
    from platformdirs import user_cache_path

    return ObjectCache(user_cache_path("graphc"))


class ObjectCache:
    """A folder of compiled objects, bounded in size; the least recently used ones go first.

    Only a folder that nobody but this user can write to is used. In place of another one, and of
    one that turns out to be full or forbids loading, comes a temporary folder that lives as long
    as the process; `reason` then says why, else it is empty.
    """

    def __init__(self, folder: Path, max_nbytes: int = MAX_NBYTES) -> None:
        self.max_nbytes = max_nbytes
        self.reason = ""
        # The last one is written to; all that can be trusted are looked into.
        self._folders: tuple[Path, ...] = (folder,)
        self._lock = threading.Lock()
        try:
            _make_private(folder)
            if not os.access(folder, os.W_OK | os.X_OK):  # what is in it can be loaded all the same
                raise PermissionError(f"{folder} is read-only")
        except OSError as error:
            self._retreat(_temporary_folder(), _words(error))

    @property
    def folder(self) -> Path:
        """Where new objects go."""
        return self._folders[-1]

    def load(self, key: str, build: Callable[[Path], object]) -> ctypes.CDLL:
        """The object of a key, loaded; `build(path)` compiles it where it is not there yet.

        Loading one object twice in a process gives the same one, its static variables included.
        Raises what `build` raises, BackendUnavailable where no folder can hold the object.
        """
        return self.use(key, build, lambda path: ctypes.CDLL(str(path)))

    def read(self, key: str, build: Callable[[], bytes], suffix: str) -> bytes:
        """The content of a key's object, which is not loaded here but by a driver; `build()` makes
        it where it is not there yet."""
        return self.use(key, lambda path: path.write_bytes(build()), Path.read_bytes, suffix)

    def use(
        self,
        key: str,
        build: Callable[[Path], object],
        opener: Callable[[Path], T],
        suffix: str = "so",
    ) -> T:
        """Like `load`, with an `opener` of one's own, which raises OSError for a bad object."""
        found = self._find(key, suffix)
        if found is not None:
            # It may come from a machine with another C library: then it is built anew.
            with contextlib.suppress(OSError):
                return opener(found)
        content = _built(build, suffix)
        return self._in_some_folder(
            lambda folder: opener(self._publish(folder, key, content, suffix))
        )

    def note(self, name: str) -> str | None:
        """The text kept under a name; None if there is none that can be trusted."""
        for folder in self._trusted():
            content = _read(_note_path(folder, name))
            if content is not None:
                return content.decode(errors="replace")
        return None

    def keep(self, name: str, text: str) -> None:
        """Keep a short text under a name (letters, digits and hyphens)."""
        with contextlib.suppress(BackendUnavailable):  # a note spares work, and nothing more
            self._in_some_folder(lambda folder: _write(_note_path(folder, name), text.encode()))

    def _trusted(self) -> Iterator[Path]:
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):
                _check_folder(folder)
                yield folder

    def _find(self, key: str, suffix: str) -> Path | None:
        """The file of a key's object, its content checked."""
        for folder in self._trusted():
            note = _note_path(folder, key)
            digest = (_read(note) or b"").decode(errors="replace")
            if DIGEST.fullmatch(digest) is None:
                continue
            path = _object_path(folder, digest, suffix)
            with contextlib.suppress(OSError):  # a read-only folder has no least recently used
                os.utime(path)  # first, so that no other process removes it from here on
                os.utime(note)
            content = _read(path)
            if content is not None and hashlib.sha256(content).hexdigest() == digest:
                return path
        return None

    def _publish(self, folder: Path, key: str, content: bytes, suffix: str) -> Path:
        """Write an object, then the note that names it."""
        digest = hashlib.sha256(content).hexdigest()
        path = _object_path(folder, digest, suffix)
        _write(path, content)
        _write(_note_path(folder, key), digest.encode())
        _remove_least_recent(folder, self.max_nbytes)
        return path

    def _in_some_folder(self, action: Callable[[Path], T]) -> T:
        """Do it in the folder; if that fails, in a new temporary one, used from then on."""
        try:
            _make_private(self.folder)  # it may have been removed meanwhile
            return action(self.folder)
        except OSError as error:
            reason = f"{self.folder} cannot be used: {_words(error)}"
        spare = _temporary_folder()
        try:
            result = action(spare)
        except OSError as error:
            shutil.rmtree(spare, ignore_errors=True)
            raise BackendUnavailable(
                f"no folder can hold a compiled object: {reason}; {spare}: {_words(error)}; set "
                f"{VARIABLE} to a folder of your own with room, from which programs may be run"
            ) from error
        self._retreat(spare, reason)
        return result

    def _retreat(self, spare: Path, reason: str) -> None:
        with self._lock:
            self._folders = (*self._folders, spare)
            self.reason = reason


def _note_path(folder: Path, name: str) -> Path:
    return folder / f"graphc-{name}.note"


def _object_path(folder: Path, digest: str, suffix: str) -> Path:
    return folder / f"graphc-{digest}.{suffix}"


def _words(error: OSError) -> str:
    """An error without its number."""
    if error.strerror is None:
        return str(error)
    return error.strerror + (f": {error.filename}" if error.filename else "")


def _built(build: Callable[[Path], object], suffix: str) -> bytes:
    """What `build` makes. It works outside the cache folder, which may be full."""
    import tempfile  # where something is compiled: a warm start is faster without

    try:
        with tempfile.TemporaryDirectory(prefix="graphc-") as place:
            path = Path(place) / f"object.{suffix}"
            build(path)
            return path.read_bytes()
    except OSError as error:
        raise BackendUnavailable(
            f"nothing can be compiled in {tempfile.gettempdir()}: {_words(error)}; "
            "set TMPDIR to a folder with room"
        ) from error


# -- folders


def _make_private(folder: Path) -> None:
    """Make the folder if it is missing; OSError, saying why, if it is not this user's alone."""
    if not folder.is_absolute():  # what an unknown home folder leads to
        raise FileNotFoundError(f"{folder} is not an absolute path; set {VARIABLE}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(folder)


def _check_folder(folder: Path) -> None:
    link = folder.lstat()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{folder} is a link that user {link.st_uid} can turn elsewhere")
    _check_owner(folder, folder.stat())


def _check_owner(path: Path, found: os.stat_result) -> None:
    """PermissionError, with a remedy, if others can write here: their code would run."""
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{path} belongs to user {found.st_uid}, not to user {os.geteuid()}; "
            f"set {VARIABLE} to a folder of your own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others may write to {path}; run: chmod go-w {path}")


def _temporary_folder() -> Path:
    """A private folder that is removed when this process ends."""
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="graphc-")  # mode 0700
    except OSError as error:
        raise BackendUnavailable(
            f"no temporary folder can be made: {_words(error)}; set TMPDIR to a folder with room"
        ) from error
    atexit.register(_remove_in_process, os.getpid(), folder)
    return Path(folder)


def _remove_in_process(process: int, folder: str) -> None:
    if os.getpid() == process:  # a fork has its parent's list of what to do at exit
        shutil.rmtree(folder, ignore_errors=True)


# -- files


def _read(path: Path) -> bytes | None:
    """The content of a plain file that only this user can write; None for anything else."""
    try:
        # Neither follow a link nor wait for the other end of a pipe.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(number, "rb") as file:  # noqa: PTH123 - of a file number
            found = os.fstat(number)
            _check_owner(path, found)
            return file.read() if stat.S_ISREG(found.st_mode) else None
    except OSError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or not at all."""
    import tempfile

    number, partial = tempfile.mkstemp(prefix="graphc-", suffix=".part", dir=path.parent)
    try:
        with open(number, "wb") as file:  # noqa: PTH123 - of a file number
            file.write(content)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _remove_least_recent(folder: Path, max_nbytes: int) -> None:
    """Remove our files, the longest unused ones first, until the rest fits.

    A loaded object may be removed: its pages stay for those who use them.
    """
    found = sorted(_own_files(folder))
    excess = sum(nbytes for _, nbytes, _ in found) - max_nbytes
    for used, nbytes, path in found:
        if excess <= 0 or used > time.time() - GRACE_SECONDS:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        excess -= nbytes


def _own_files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file of ours was last used, its size and its path."""
    for path in folder.iterdir():
        if OWN_NAME.fullmatch(path.name):
            with contextlib.suppress(OSError):  # another process may remove files, too
                found = path.lstat()
                yield found.st_mtime, found.st_size, path
