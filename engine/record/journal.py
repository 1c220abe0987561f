"""The journal of a recording: append-only segments of checksummed frames; a kill at any byte loses nothing acknowledged."""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    """Appends frames to a recording; a thread hands them to the disk at least every `sync_interval_ms`.

    `acknowledged_seq` is the last frame the system has (safe from a kill), `synced_seq` the last one the disk has (safe from
    a power loss). One thread appends. After a failure every call raises the same SourceFailed.
    """

    def __init__(self, folder: Path | str, session_id: str, *, sync_interval_ms: float = 50, segment_bytes: int = 64 << 20,
                 segment_seconds: float = 600, disk_reserve_bytes: int = 2 << 30, sources: Iterable[Origin] = ()):
        self.folder, self.journal, self.session_id = Path(folder), Path(folder) / "journal", session_id
        if not NAME.fullmatch(session_id):
            raise BadInput(f"session name {session_id!r} will not do as a folder name; use letters, digits and . _ + -")
        self.segment_bytes, self.segment_ns = segment_bytes, round(segment_seconds * 1e9)
        self.disk_reserve_bytes, self.sources = disk_reserve_bytes, list(sources)
        self.acknowledged_seq = self.synced_seq = self.last_seq = self.last_recv_ns = 0
        self.bumped = self.bytes = self.segments = 0
        self._buffer, self._size, self._unchecked, self._segment_from_ns = bytearray(), 0, 0, 0
        self._file, self._failure, self._begun = None, None, False
        self._lock, self._stop = threading.RLock(), threading.Event()
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
        self._held = hold(self.folder)
        self._held.__enter__()
        try:
            if any(self.journal.iterdir()):
                raise BadInput(f"recording {self.folder} holds a journal already; convert that one first")
            free = shutil.disk_usage(self.journal).free
            if free < self.disk_reserve_bytes:
                raise SourceFailed(self._budget_text(free) + "; nothing was recorded")
            self._open_segment()
        except BaseException:
            self._held.__exit__(None, None, None)
            raise

    def append(self, source: int, kind: int, payload: bytes, recv_ns: int, flags: int = 0) -> int:
        """Take one frame and return its seq; a recv_ns not after the one before is moved to 1 ns after it."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if recv_ns <= self.last_recv_ns:
                recv_ns = self.last_recv_ns + 1
                self.bumped += 1
            size = len(payload)
            if size > MAX_PAYLOAD_BYTES:
                raise BadInput(f"a frame of {size} bytes is more than the {MAX_PAYLOAD_BYTES} a journal takes")
            if self._size + len(self._buffer) >= self.segment_bytes or recv_ns - self._segment_from_ns >= self.segment_ns:
                self._turn(recv_ns)
            seq = self.last_seq + 1
            rest = REST_OF_HEAD.pack(seq, recv_ns, source, kind, flags)
            self._buffer += HEAD.pack(size, crc32(payload, crc32(rest, size))) + rest
            self._buffer += payload
            self.last_seq, self.last_recv_ns = seq, recv_ns
            if self._at_once:
                self.sync()
            elif len(self._buffer) >= BUFFER_BYTES:
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
            if self._failure is not None:
                raise self._failure
            if self._buffer:
                self._write()
            return self.acknowledged_seq

    def sync(self) -> int:
        """Hand everything appended to the disk and return the last seq it has."""
        with self._lock:
            upto = self.flush()
            if upto == self.synced_seq:
                return upto
            descriptor = os.dup(self._file.fileno())
        try:                                   # outside the lock: appending goes on meanwhile
            os.fsync(descriptor)
        except OSError as error:
            with self._lock:
                raise self._fail(f"the disk refused {self._path} ({error.strerror or error})") from None
        finally:
            os.close(descriptor)
        self.synced_seq = max(self.synced_seq, upto)
        return upto

    def close(self) -> None:
        """End the journal with everything appended on disk; raises the failure nobody has been told of yet."""
        self._stop.set()
        if not self._at_once:
            self._thread.join()
        try:
            if self._file is not None:
                self.sync()
            elif self._failure is not None and not self._told:
                raise self._failure
        finally:
            self._told = True
            self._shut()
            self._held.__exit__(None, None, None)

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
        return pack_frame(self.last_seq, self.last_recv_ns, 0, SOURCES, 0, rows)

    def _open_segment(self) -> None:
        self.segments += 1
        self._path = self.journal / SEGMENT.format(self.segments)
        self._file = open(self._path, "xb", buffering=0)
        header = pack_header(Header(self.session_id, self.segments, self.last_seq + 1, clock.now_ns()))
        self._size = 0
        self._write_all(header + self._table())
        sync_folder(self.journal)

    def _turn(self, recv_ns: int) -> None:
        """End the segment and begin the next; the first frame of all only sets the time the segment counts from."""
        if self._segment_from_ns or self.last_seq:
            self.sync()
            try:
                self._shut()
                self._open_segment()
            except OSError as error:
                raise self._fail(f"{self._path} could not be begun ({error.strerror or error})") from None
        self._segment_from_ns = recv_ns

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        try:
            self._write_all(self._buffer)
        except OSError as error:
            self._take_back()
            raise self._fail(f"{self._path} could not be written ({error.strerror or error})") from None
        self.acknowledged_seq = self.last_seq
        self._buffer = bytearray()
        if self._unchecked >= BUDGET_BYTES:
            self._unchecked = 0
            self._check_budget()

    def _write_all(self, data: bytes | bytearray) -> None:
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += self._file.write(view[done:])
        self._size += done
        self.bytes += done
        self._unchecked += done

    def _take_back(self) -> None:
        """Remove the part of a batch that was written, so that the segment ends with a whole frame."""
        try:
            self._file.truncate(self._size)
        except OSError:
            pass                               # then the torn end is cut off at the next start

    def _check_budget(self) -> None:
        free = shutil.disk_usage(self.journal).free
        if free < self.disk_reserve_bytes:
            os.fsync(self._file.fileno())
            self.synced_seq = self.acknowledged_seq
            raise self._fail(self._budget_text(free))

    def _budget_text(self, free: int) -> str:
        return (f"{self.journal} has {free / 1e6:,.0f} MB of disk left where {self.disk_reserve_bytes / 1e6:,.0f} MB are kept "
                "in reserve; free some space or lower the reserve")

    def _fail(self, what: str) -> SourceFailed:
        """Close the journal for good and return the error to raise."""
        if self._failure is None:
            lost = self.last_seq - self.acknowledged_seq
            tail = f", seq {self.acknowledged_seq + 1} to {self.last_seq} were not kept" if lost else ""
            self._failure = SourceFailed(f"{what}; the recording ended after seq {self.acknowledged_seq}{tail}")
            self._told = threading.current_thread() is not getattr(self, "_thread", None)
            self._shut()
        return self._failure
