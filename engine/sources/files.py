"""A recorded file opened for reading: packed or plain, line by line, damage told in one sentence."""

import gzip
import hashlib
import io
import itertools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.errors import BadInput

PROGRESS_LINES = 20_000
BUFFER_BYTES = 1 << 18
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


class RecordedFile:
    """One input file; `lines` and `content` unpack gzip and single-member zip by their first bytes."""

    def __init__(self, path: Path | str, progress: Callable[[int], None] | None = None):
        self.path = Path(path)
        self.progress = progress
        if not self.path.is_file():
            raise BadInput(f"{self.path} is not a file; give the recorded files themselves, one or more")
        self.size = self.path.stat().st_size
        if self.size == 0:
            raise BadInput(f"{self.path} is empty; there is nothing in it to import")

    @property
    def name(self) -> str:
        """The file name without its folder."""
        return self.path.name

    def sha256(self) -> str:
        """Return the hash of the file as it lies on disk."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Open the file as it lies on disk, and beside it what it unpacks to."""
        with open(self.path, "rb", buffering=BUFFER_BYTES) as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic[:2] == b"\x1f\x8b":
                with io.BufferedReader(gzip.GzipFile(fileobj=raw), BUFFER_BYTES) as unpacked:
                    yield raw, unpacked
            elif magic == b"PK\x03\x04":
                with io.BufferedReader(self._member(raw), BUFFER_BYTES) as unpacked:
                    yield raw, unpacked
            else:
                yield raw, raw

    def _member(self, raw: BinaryIO) -> BinaryIO:
        archive = zipfile.ZipFile(raw)
        names = [n for n in archive.namelist() if not n.endswith("/")]
        if len(names) != 1:
            raise BadInput(f"{self.path} holds {len(names)} files, not one; unpack it and import the files themselves")
        return archive.open(names[0])

    def _damaged(self, error: Exception, line: int) -> BadInput:
        where = f"after line {line}" if line else "at its start"
        return BadInput(f"{self.path} is cut short or damaged {where} ({error}); fetch it again")

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line number from 1, line without its end), reporting the bytes read so far now and then."""
        number = 0
        try:
            with self._opened() as (raw, unpacked):
                for number, line in enumerate(unpacked, 1):
                    yield number, line.rstrip(b"\r\n")
                    if self.progress and number % PROGRESS_LINES == 0:
                        self.progress(min(raw.tell(), self.size))
        except DAMAGE as error:
            raise self._damaged(error, number) from None
        if number == 0:
            raise BadInput(f"{self.path} is empty once unpacked; there is nothing in it to import")

    def head(self, count: int = 1) -> list[bytes]:
        """Return the first lines."""
        return [line for _, line in itertools.islice(self.lines(), count)]

    def content(self, size: int = -1) -> bytes:
        """Return the first bytes, or all, unpacked."""
        try:
            with self._opened() as (_, unpacked):
                return unpacked.read(size)
        except DAMAGE as error:
            raise self._damaged(error, 0) from None
