"""The journal of a recording: append-only, checksummed; a kill at any byte loses no frame it acknowledged."""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from zlib import crc32

from engine import clock
from engine.errors import BadInput, SourceFailed
from engine.record.segment import (
    FORMAT_VERSION,
    HEAD,
    KEY,
    MAX_PAYLOAD_BYTES,
    SEGMENT,
    SOURCES,
    Frame,
    Header,
    JournalReader,
    Origin,
    pack_frame,
    pack_header,
)

BUFFER_BYTES = 1 << 18                     # appended frames are handed to the system when they are as many
BUDGET_BYTES = 16 << 20                    # free space is looked at this often
PREFIX = ".recording-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def recording_folder(data: Path | str, session_id: str) -> Path:
    """Return where the recording of a session lives until it is converted."""
    return Path(data) / "sessions" / f"{PREFIX}{session_id}"


def recordings(data: Path | str) -> list[Path]:
    """Return the recordings under a data root that have not become sessions yet."""
    return sorted(path for path in (Path(data) / "sessions").glob(f"{PREFIX}*") if (path / "journal").is_dir())


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a recording for this process; the system lets go when the process ends, however it ends."""
    with open(folder / "lock", "ab") as file:
        try:
            _lock(file.fileno())
        except OSError:
            raise BadInput(f"recording {folder} is in use by another process; wait until it has ended") from None
        yield


def is_held(folder: Path) -> bool:
    """Tell whether a process keeps this folder now, or may: one that cannot be looked into is taken for kept."""
    if not (folder / "lock").exists():
        return False
    try:
        with hold(folder):
            return False
    except (BadInput, OSError):
        return True


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system has a call for it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class JournalWriter:
    """Appends frames to a recording; a thread syncs them to disk every `sync_interval_ms`, 0 syncs each at once.

    `acknowledged_seq` is the last frame the system has: safe from a kill. `synced_seq` is the last one the disk has:
    safe from a power loss. After a failure every call raises SourceFailed with the same sentence.
    """

    def __init__(self, folder: Path | str, session_id: str, *, sync_interval_ms: float = 50,
                 segment_bytes: int = 64 << 20, segment_seconds: float = 600, disk_reserve_bytes: int = 2 << 30,
                 sources: Iterable[Origin] = ()):
        self.folder, self.journal, self.session_id = Path(folder), Path(folder) / "journal", session_id
        if not NAME.fullmatch(session_id):
            raise BadInput(f"session name {session_id!r} will not do as a folder name; use letters, digits and . _ + -")
        self.segment_bytes, self.segment_ns = segment_bytes, round(segment_seconds * 1e9)
        self.disk_reserve_bytes, self.sources = disk_reserve_bytes, list(sources)
        self.acknowledged_seq = self.synced_seq = self.last_seq = self.last_recv_ns = 0
        self.bumped = 0                        # frames whose recv_ns was moved
        self.bytes = self.segments = 0
        self._buffer, self._size, self._unchecked, self._segment_from_ns = bytearray(), 0, 0, 0
        self._file, self._failure, self._told = None, "", False
        self._lock, self._stop, self._thread = threading.RLock(), threading.Event(), None
        try:
            self._begin()
        except OSError as error:
            raise SourceFailed(f"recording {self.folder} cannot be started ({error.strerror or error})") from None
        self._at_once = sync_interval_ms <= 0
        if not self._at_once:
            self._thread = threading.Thread(target=self._keep_syncing, args=(sync_interval_ms / 1e3,), daemon=True)
            self._thread.start()

    def _begin(self) -> None:
        self.journal.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._held.enter_context(hold(self.folder))
        with ExitStack() as undo:
            undo.callback(self._held.close)
            if any(self.journal.iterdir()):
                raise BadInput(f"recording {self.folder} holds a journal already; convert that one first")
            if (self.folder.with_name(self.session_id)).exists():
                raise BadInput(f"session {self.session_id} already exists beside {self.folder}; give another name")
            free = shutil.disk_usage(self.journal).free
            if free < self.disk_reserve_bytes:
                raise SourceFailed(f"{self._budget_text(free)}; nothing was recorded")
            self._open_segment()
            for folder in (self.folder, self.folder.parent):
                sync_folder(folder)
            undo.pop_all()

    def append(self, source: int, kind: int, payload: bytes, recv_ns: int, flags: int = 0) -> int:
        """Take one frame and return its seq; a recv_ns not after the one before is moved to 1 ns after it."""
        with self._lock:
            if self._failure:
                raise self._refusal()
            size = len(payload)
            if size > MAX_PAYLOAD_BYTES:
                raise BadInput(f"a frame of {size} bytes is more than the {MAX_PAYLOAD_BYTES} a journal takes")
            last_recv_ns = self.last_recv_ns
            if recv_ns <= last_recv_ns:
                recv_ns = last_recv_ns + 1
                self.bumped += 1
            mark = len(self._buffer)
            full = self._size + mark >= self.segment_bytes
            if full or recv_ns - self._segment_from_ns >= self.segment_ns:
                self._turn(recv_ns)
                mark = len(self._buffer)
            seq = self.last_seq + 1
            try:
                key = KEY.pack(seq, recv_ns, source, kind, flags)
                self._buffer += HEAD.pack(size, crc32(payload, crc32(key, size))) + key + payload
                self.last_seq, self.last_recv_ns = seq, recv_ns
            except BaseException:              # an interrupt must not leave half a frame or use a seq twice
                del self._buffer[mark:]
                self.last_seq, self.last_recv_ns = seq - 1, last_recv_ns
                raise
            if self._at_once:
                self.sync()
            elif mark >= BUFFER_BYTES:
                self.flush()
            return seq

    def source(self, origin: Origin) -> int:
        """Add a source and return its number."""
        with self._lock:
            self.sources.append(origin)
            self._buffer += self._table()
            return len(self.sources) - 1

    def flush(self) -> int:
        """Hand everything appended to the system and return the last seq it has."""
        with self._lock:
            if self._failure:
                raise self._refusal()
            if self._buffer:
                self._write()
            return self.acknowledged_seq

    def sync(self) -> int:
        """Hand everything appended to the disk and return the last seq it has."""
        with self._lock:
            upto = self.flush()
            if upto == self.synced_seq:
                return upto
            try:
                descriptor = os.dup(self._file.fileno())
            except OSError as error:
                raise self._not_durable(error) from None
        try:                                   # outside the lock: appending goes on meanwhile
            os.fsync(descriptor)
        except OSError as error:
            raise self._not_durable(error) from None
        finally:
            os.close(descriptor)
        with self._lock:
            self.synced_seq = max(self.synced_seq, upto)
        return upto

    def close(self) -> None:
        """End the journal with everything appended on disk; raise a failure that nobody was told of yet."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._file is not None:
                self.sync()
            elif self._failure and not self._told:
                raise self._refusal()
        finally:
            self._shut()
            self._held.close()

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep_syncing(self, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            try:
                self.sync()
            except SourceFailed:
                return                         # kept; the next call of the owner raises it

    def _table(self) -> bytes:
        rows = json.dumps([asdict(origin) for origin in self.sources], separators=(",", ":")).encode()
        return pack_frame(Frame(self.last_seq, self.last_recv_ns, 0, SOURCES, 0, rows))

    def _open_segment(self) -> None:
        self.segments += 1
        self._path, self._size = self.journal / SEGMENT.format(self.segments), 0
        self._file = open(self._path, "xb", buffering=0)
        header = Header(FORMAT_VERSION, self.session_id, self.segments, self.last_seq + 1, clock.now_ns())
        self._write_all(pack_header(header) + self._table())
        sync_folder(self.journal)

    def _turn(self, recv_ns: int) -> None:
        """End the segment and begin the next; the first frame of all only sets the time the segment counts from."""
        if self.last_seq:
            self.sync()
            self._check_budget()
            self._shut()
            try:
                self._open_segment()
            except OSError as error:
                self._take_back(0)
                raise self._fail(f"{self._path} could not be begun ({error.strerror or error})") from None
        self._segment_from_ns = recv_ns

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        begin, data = self._size, self._buffer
        try:
            self._write_all(data)
            self._buffer = bytearray()
        except BaseException as error:
            whole = self._take_back(begin)
            self._buffer = bytearray(data)     # a copy: the traceback may hold views of the old one
            if whole and not isinstance(error, OSError):
                raise
            text = getattr(error, "strerror", "") or error
            raise self._fail(f"{self._path} could not be written ({text})") from None
        self.acknowledged_seq = self.last_seq
        if self._unchecked >= BUDGET_BYTES:
            self._check_budget()

    def _write_all(self, data: bytes | bytearray) -> None:
        done, size = 0, len(data)
        with memoryview(data) as view:
            while done < size:
                done += self._file.write(view[done:])
        self._size += size
        self._unchecked += size
        self.bytes += size

    def _take_back(self, size: int) -> bool:
        """Cut the segment back to its last whole batch; where that fails too, the next start will."""
        try:
            self._file.truncate(size)
            self._file.seek(size)
            self._size = size
            return True
        except (OSError, AttributeError):
            return False

    def _check_budget(self) -> None:
        self._unchecked = 0
        try:
            free = shutil.disk_usage(self.journal).free
        except OSError as error:
            raise self._fail(f"{self.journal} does not tell how much of the disk is free ({error.strerror or error})") from None
        if free < self.disk_reserve_bytes:
            self.sync()
            raise self._fail(self._budget_text(free))

    def _budget_text(self, free: int) -> str:
        reserve = self.disk_reserve_bytes
        return (f"{self.journal}: {_size(free)} of the disk are free, {_size(reserve)} are kept in "
                "reserve; free some space or lower the reserve")

    def _not_durable(self, error: OSError) -> SourceFailed:
        return self._fail(f"{self._path} could not be made durable ({error.strerror or error})")

    def _fail(self, what: str) -> SourceFailed:
        """Close the journal for good and return the error to raise."""
        with self._lock:
            if not self._failure:
                first = self.acknowledged_seq + 1
                lost = f"; seq {first} to {self.last_seq} were not kept" if self.last_seq >= first else ""
                self._failure = f"{what}; the recording ended after seq {self.acknowledged_seq}{lost}"
                self._shut()
            return self._refusal()

    def _refusal(self) -> SourceFailed:
        self._told = self._told or threading.current_thread() is not self._thread
        return SourceFailed(self._failure)


def repair(folder: Path | str) -> dict:
    """Cut a torn end of a recording back to its longest valid prefix; return what was done, in words too (`said`).

    What is cut off is kept in the journal folder with the ending .cut until the recording is converted.
    """
    folder = Path(folder)
    with hold(folder):
        return repair_held(folder)


def repair_held(folder: Path) -> dict:
    """Repair a recording this process holds already."""
    said: list[str] = []
    cut = 0
    while True:
        reader = JournalReader(folder, last_only=True)
        for _ in reader:
            pass
        if not reader.segments:
            break
        last = reader.segments[0]
        size = last.stat().st_size
        if size and reader.valid_bytes == size:
            break
        said.append(_cut(last, reader, size))
        cut += size - reader.valid_bytes
        if reader.valid_bytes:
            break
    return {"recording": str(folder), "last_seq": reader.last_seq, "cut_bytes": cut, "said": said}


def _cut(path: Path, reader: JournalReader, size: int) -> str:
    """Take what is not valid off the end of a segment, all of it where nothing is, and say so."""
    keep = reader.valid_bytes
    aside = path.with_name(f"{path.stem}.{keep}.cut")
    with open(path, "rb") as source, open(aside, "wb") as target:
        source.seek(keep)
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    sync_folder(path.parent)
    if keep:
        with open(path, "r+b") as file:
            file.truncate(keep)
            file.flush()
            os.fsync(file.fileno())
        return (f"{path.name}: the last {size - keep} bytes, after seq {reader.last_seq}, were no whole frame; "
                f"they were moved to {aside.name}")
    path.unlink()
    sync_folder(path.parent)
    return f"{path.name} held no whole frame in its {size} bytes; it was moved to {aside.name}"
