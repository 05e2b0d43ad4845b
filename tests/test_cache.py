"""The cache of compiled objects: what is trusted, what is built again, what is thrown away."""

import ctypes
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graphc.backends import cache as module
from graphc.backends.cache import GRACE_SECONDS, ObjectCache, content_key, object_cache
from graphc.errors import BackendUnavailable

KEY = content_key("a program")


class Builder:
    """Makes a file of fixed content, and counts how often."""

    def __init__(self, content: bytes = b"an object") -> None:
        self.content = content
        self.calls = 0

    def __call__(self, path: Path) -> None:
        self.calls += 1
        path.write_bytes(self.content)


def used(cache: ObjectCache, build: Builder, key: str = KEY) -> bytes:
    return cache.use(key, build, Path.read_bytes)


def objects(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def build() -> Builder:
    return Builder()


def test_key_depends_on_each_part_and_on_where_it_ends() -> None:
    keys = [content_key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""))]
    assert len(set(keys)) == 4
    assert content_key("ab", "c") == keys[0]


def test_built_once_then_found(folder: Path, build: Builder) -> None:
    assert used(ObjectCache(folder), build) == build.content
    assert used(ObjectCache(folder), build) == build.content
    assert build.calls == 1
    assert used(ObjectCache(folder), build, content_key("another program")) == build.content
    assert build.calls == 2


def test_object_that_is_read_and_not_loaded(folder: Path) -> None:
    """As a GPU's are: with the same guarantees, under a name of their own."""
    made: list[bytes] = []

    def build() -> bytes:
        made.append(b"a cubin")
        return made[-1]

    for _ in range(2):
        assert ObjectCache(folder).read(KEY, build, "cubin") == b"a cubin"
    assert len(made) == 1
    (path,) = folder.glob("*.cubin")
    assert mode(path) == 0o600
    path.write_bytes(b"other bytes")
    assert ObjectCache(folder).read(KEY, build, "cubin") == b"a cubin"
    assert len(made) == 2
    assert not objects(folder)
    age(path, 10 * GRACE_SECONDS)
    used(ObjectCache(folder, max_nbytes=100), Builder(b"x" * 99), content_key("another program"))
    assert not list(folder.glob("*.cubin"))  # bounded together with the others


def test_folder_and_files_are_private(folder: Path, build: Builder) -> None:
    before = os.umask(0)
    try:
        used(ObjectCache(folder), build)
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    assert not list(folder.glob("*.part"))


def test_notes(folder: Path) -> None:
    cache = ObjectCache(folder)
    assert cache.note("found") is None
    cache.keep("found", "eins\nzwei é")
    assert ObjectCache(folder).note("found") == "eins\nzwei é"
    os.mkfifo(folder / "graphc-pipe.note", 0o600)
    assert cache.note("pipe") is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: os.truncate(path, 4),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"other bytes"),
        lambda path: path.chmod(0o666),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.rename(path.with_name("moved")), path.symlink_to("moved")),
        lambda path: (path.unlink(), os.mkfifo(path, 0o600)),
    ],
    ids=["cut", "empty", "garbage", "writable", "gone", "folder", "link", "pipe"],
)
@pytest.mark.parametrize("suffix", ["so", "note"])
def test_spoiled_file_is_built_again(
    folder: Path, build: Builder, spoil: Callable[[Path], object], suffix: str
) -> None:
    cache = ObjectCache(folder)
    used(cache, build)
    (path,) = folder.glob(f"*.{suffix}")
    spoil(path)
    assert used(cache, build) == build.content
    assert build.calls == 2
    if not path.is_dir():  # a folder in a file's place cannot be replaced
        assert used(cache, build) == build.content
        assert build.calls == 2
        assert cache.reason == ""


def test_object_that_does_not_load_is_built_again(folder: Path, build: Builder) -> None:
    """As with one made on a machine with a newer C library."""
    used(ObjectCache(folder), Builder(b"made elsewhere"))

    def opener(path: Path) -> bytes:
        if path.read_bytes() != build.content:
            raise OSError("version GLIBC_9 not found")
        return build.content

    cache = ObjectCache(folder)
    assert cache.use(KEY, build, opener) == build.content
    assert (build.calls, cache.reason) == (1, "")


def test_garbage_is_never_loaded(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(BackendUnavailable, match=r"no folder can hold .*GRAPHC_CACHE_DIR"):
        ObjectCache(folder).load(KEY, Builder(b"garbage"))
    assert not list((tmp_path / "temporary").iterdir())


def test_failure_of_the_build_is_passed_on(folder: Path) -> None:
    def fail(path: Path) -> None:
        raise BackendUnavailable(f"no {path.name}")

    cache = ObjectCache(folder)
    with pytest.raises(BackendUnavailable, match=r"no object\.so"):
        cache.load(KEY, fail)
    assert not list(folder.iterdir())
    assert cache.reason == ""


# -- whose files


def owned_by(monkeypatch: pytest.MonkeyPatch, user: int, *names: str) -> None:
    """Let files of these names seem to belong to a user: what the tests cannot do without root."""
    check = module._check_owner

    def check_as_if(path: Path, found: os.stat_result) -> None:
        if path.name in names or path.suffix in names:
            found = os.stat_result([*found[:4], user, *found[5:10]])
        check(path, found)

    monkeypatch.setattr(module, "_check_owner", check_as_if)


@pytest.mark.parametrize("suffix", [".so", ".note"])
def test_file_of_another_user(
    folder: Path, build: Builder, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(ObjectCache(folder), build)
    owned_by(monkeypatch, os.geteuid() + 1, suffix)
    assert used(ObjectCache(folder), build) == build.content
    assert build.calls == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_file_and_folder_given_away(folder: Path, build: Builder) -> None:
    used(ObjectCache(folder), build)
    os.chown(objects(folder)[0], 12345, 12345)
    used(ObjectCache(folder), build)
    assert build.calls == 2
    os.chown(folder, 12345, 12345)
    assert "belongs to user 12345" in ObjectCache(folder).reason


def test_folder_of_another_user(
    folder: Path, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(ObjectCache(folder), build)
    owned_by(monkeypatch, 4242, folder.name)
    cache = ObjectCache(folder)
    assert "belongs to user 4242" in cache.reason
    assert "GRAPHC_CACHE_DIR" in cache.reason
    assert cache.folder != folder
    assert mode(cache.folder) == 0o700
    used(cache, build)
    assert build.calls == 2  # what was in that folder is not looked at
    assert len(objects(cache.folder)) == len(objects(folder)) == 1


@pytest.mark.parametrize("bits", [0o777, 0o770, 0o702])
def test_folder_that_others_can_write_to(folder: Path, build: Builder, bits: int) -> None:
    folder.mkdir(parents=True)
    folder.chmod(bits)
    cache = ObjectCache(folder)
    assert f"chmod go-w {folder}" in cache.reason
    used(cache, build)
    assert not list(folder.iterdir())


def test_folder_opened_to_others_later(folder: Path, build: Builder) -> None:
    cache = ObjectCache(folder)
    used(cache, build)
    folder.chmod(0o777)
    used(cache, build)
    assert build.calls == 2
    assert "chmod go-w" in cache.reason


def test_link_to_an_own_folder(tmp_path: Path, folder: Path, build: Builder) -> None:
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    cache = ObjectCache(tmp_path / "link")
    used(cache, build)
    assert cache.reason == ""
    assert len(objects(folder)) == 1


def test_link_of_or_to_somebody_else(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(folder)
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        found = real(path)
        return os.stat_result([*found[:4], 4242, *found[5:10]]) if path == link else found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", lstat)
        assert "a link that user 4242 can turn elsewhere" in ObjectCache(link).reason
    owned_by(monkeypatch, 4242, link.name)
    assert "belongs to user 4242" in ObjectCache(link).reason


# -- folders that cannot be used


def test_folder_in_place_of_which_is_a_file(folder: Path, build: Builder) -> None:
    folder.parent.mkdir()
    folder.write_text("")
    cache = ObjectCache(folder)
    used(cache, build)
    assert "File exists" in cache.reason
    assert str(folder) in cache.reason


def test_folder_that_cannot_be_made(tmp_path: Path, build: Builder) -> None:
    (tmp_path / "file").write_text("")
    cache = ObjectCache(tmp_path / "file" / "cache")
    used(cache, build)
    assert "Not a directory" in cache.reason


def test_unknown_home_folder(
    tmp_path: Path, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = ObjectCache(Path("~/.cache/graphc"))
    used(cache, build)
    assert "not an absolute path" in cache.reason
    assert not list(tmp_path.iterdir())


def test_read_only_folder_still_serves_what_it_holds(
    folder: Path, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(ObjectCache(folder), build)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, how: path != folder and allowed(path, how))
    cache = ObjectCache(folder)
    used(cache, build)
    assert build.calls == 1
    assert cache.reason == f"{folder} is read-only"
    used(cache, build, content_key("another program"))
    assert len(objects(folder)) == 1
    assert len(objects(cache.folder)) == 1


def test_folder_removed_meanwhile(folder: Path, build: Builder) -> None:
    cache = ObjectCache(folder)
    used(cache, build)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert used(cache, build) == build.content
    assert (build.calls, cache.reason, mode(folder)) == (2, "", 0o700)


def fill_up(monkeypatch: pytest.MonkeyPatch, full: Callable[[Path], bool]) -> None:
    """Let each write to some folders fail as on a full disk."""
    make = tempfile.mkstemp

    def make_full(prefix: str, suffix: str, dir: Path) -> tuple[int, str]:  # noqa: A002
        number, path = make(prefix=prefix, suffix=suffix, dir=dir)
        if full(dir):
            os.close(number)
            number = os.open("/dev/full", os.O_WRONLY)
        return number, path

    monkeypatch.setattr(tempfile, "mkstemp", make_full)


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@needs_dev_full
def test_full_disk(folder: Path, build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_up(monkeypatch, lambda place: place == folder)
    cache = ObjectCache(folder)
    assert used(cache, build) == build.content
    assert build.calls == 1  # the object moves; it is not compiled twice
    assert f"{folder} cannot be used: No space left on device" in cache.reason
    assert cache.folder != folder
    assert not list(folder.iterdir())
    assert used(cache, build) == build.content
    assert build.calls == 1
    cache.keep("found", "text")
    assert cache.note("found") == "text"


@needs_dev_full
def test_all_disks_full(folder: Path, build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_up(monkeypatch, lambda place: True)
    cache = ObjectCache(folder)
    with pytest.raises(BackendUnavailable, match=r"No space .* No space .*set GRAPHC_CACHE_DIR"):
        used(cache, build)
    cache.keep("found", "text")  # nothing is lost but time
    assert cache.note("found") is None
    assert cache.folder == folder


def test_no_temporary_folder(folder: Path, build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    with pytest.raises(BackendUnavailable, match="set TMPDIR"):
        used(ObjectCache(folder), build)
    with pytest.raises(BackendUnavailable, match=r"no temporary folder .* set TMPDIR"):
        ObjectCache(Path("relative"))


def test_folder_that_forbids_loading(folder: Path, build: Builder) -> None:
    def opener(path: Path) -> Path:
        if path.parent == folder:
            raise OSError("failed to map segment from shared object")
        return path

    cache = ObjectCache(folder)
    assert cache.use(KEY, build, opener).parent == cache.folder
    assert build.calls == 1
    assert "failed to map segment" in cache.reason


# -- size


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_least_recently_used_objects_go_first(folder: Path) -> None:
    cache = ObjectCache(folder, max_nbytes=3500)
    builders = {key: Builder(key.encode() * 1000) for key in "abc"}
    for i, (key, build) in enumerate(builders.items()):
        used(cache, build, key)
        for path in folder.iterdir():
            if mode(path) == 0o600:
                age(path, GRACE_SECONDS * (10 - i))
                path.chmod(0o400)  # aged
    assert len(objects(folder)) == 3
    used(cache, builders["a"], "a")  # now the oldest is b
    used(cache, Builder(b"d" * 1000), "d")
    assert {path.read_bytes()[:1] for path in objects(folder)} == {b"a", b"c", b"d"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3500
    assert builders["a"].calls == 1
    assert used(cache, builders["b"], "b") == builders["b"].content
    assert builders["b"].calls == 2


def test_nothing_that_was_used_just_now_is_removed(folder: Path) -> None:
    cache = ObjectCache(folder, max_nbytes=100)
    for key in "abc":
        used(cache, Builder(key.encode() * 1000), key)
    assert len(objects(folder)) == 3


def test_only_own_files_are_removed(folder: Path, build: Builder) -> None:
    folder.mkdir(parents=True, mode=0o700)
    others = [folder / "thesis.txt", folder / "libother.so", folder / "graphc-notes.txt"]
    left = folder / "graphc-x1_y.part"  # by a process that was killed
    for path in [*others, left]:
        path.write_bytes(b"x" * 1000)
        age(path, GRACE_SECONDS * 2)
    used(ObjectCache(folder, max_nbytes=10), build)
    assert [path.exists() for path in others] == [True] * 3
    assert not left.exists()


# -- processes

RACE = """
import os, sys, time
from pathlib import Path
from graphc.backends.cache import ObjectCache

def build(path):  # of a compiler that never writes the same bytes twice
    path.write_bytes(os.urandom(50_000) + b"end")

def opener(path):
    content = path.read_bytes()
    if len(content) != 50_003 or not content.endswith(b"end"):
        sys.exit("a broken object was opened")

cache = ObjectCache(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for key in range(60):
    cache.use(str(key), build, opener)
sys.exit(cache.reason or 0)
"""


def python(text: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_processes_that_race(folder: Path, build: Builder) -> None:
    racers = [python(RACE, folder) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    results = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        results.append((racer.communicate()[1], racer.returncode))
    assert results == [("", 0)] * 3
    assert not list(folder.glob("*.part"))
    for key in range(60):
        assert len(used(ObjectCache(folder), build, str(key))) == 50_003
    assert build.calls == 0


TEMPORARY = """
import os, sys
from pathlib import Path
from graphc.backends.cache import ObjectCache

cache = ObjectCache(Path("relative"))
print(cache.folder)
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(cache.folder.is_dir())
"""


def test_temporary_folder_ends_with_its_process_and_not_with_a_fork() -> None:
    output, complaint = python(TEMPORARY).communicate()
    assert complaint == ""
    folder, alive = output.split()
    assert alive == "True"
    assert not Path(folder).exists()


# -- which folder


def test_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "mine"))
    assert object_cache().folder == tmp_path / "mine"
    assert object_cache() is object_cache()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHC_CACHE_DIR", "here")
    assert object_cache().folder == tmp_path / "here"


def test_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("GRAPHC_CACHE_DIR")
    module._cache_in.cache_clear()
    try:
        folder = object_cache().folder
    finally:
        module._cache_in.cache_clear()
    assert folder.name == "graphc"
    assert folder.is_relative_to(tmp_path)
    assert mode(folder) == 0o700


def test_tests_keep_out_of_the_users_folder() -> None:
    from platformdirs import user_cache_path

    temporary = Path(tempfile.gettempdir()).resolve()
    assert object_cache().folder.resolve().is_relative_to(temporary)
    assert not object_cache().folder.resolve().is_relative_to(user_cache_path("graphc").resolve())


def test_digest_is_of_the_content(folder: Path, build: Builder) -> None:
    used(ObjectCache(folder), build)
    digest = hashlib.sha256(build.content).hexdigest()
    assert objects(folder) == [folder / f"graphc-{digest}.so"]


def test_loaded_object_runs(folder: Path) -> None:
    """Any library will do: here Python's own helper for foreign calls."""
    import _ctypes

    content = Path(_ctypes.__file__).read_bytes()
    library = ObjectCache(folder).load(KEY, Builder(content))
    assert isinstance(library, ctypes.CDLL)
    assert library.PyInit__ctypes is not None
