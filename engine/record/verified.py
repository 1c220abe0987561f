"""Session tables that are read back from disk and compared with what was written."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.errors import SourceFailed
from engine.record.store import TABLES, SessionWriter

BATCH_ROWS = 65_536


class Content:
    """Hashes the content of a table however it is cut into batches, and counts its rows and messages."""

    def __init__(self, name: str):
        self.name = name
        self.rows = self.messages = 0
        self.last_seq: int | None = None
        self._digests = {field: hashlib.blake2b(digest_size=16) for field in TABLES[name].names}
        self._texts: dict[str | None, int] = {}

    def fold(self, batch: pa.Table | pa.RecordBatch) -> None:
        """Take more rows."""
        for field, digest in self._digests.items():
            column = batch.column(field)
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                digest.update(np.ascontiguousarray(self._values(chunk)).data)
        seq = np.asarray(batch.column("seq"))
        if len(seq):
            self.messages += int((np.diff(seq) != 0).sum()) + (seq[0] != self.last_seq)
            self.last_seq = int(seq[-1])
        self.rows += len(seq)

    def _values(self, array: pa.Array) -> np.ndarray:
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.int8())
        if pa.types.is_integer(array.type):
            least = np.iinfo(array.type.to_pandas_dtype()).min
            return pc.fill_null(array, pa.scalar(least, array.type)).to_numpy(zero_copy_only=False)
        coded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        known = [_text_number(self._texts, text) for text in [*coded.dictionary.to_pylist(), None]]
        index = pc.fill_null(coded.indices.cast(pa.int64()), len(known) - 1).to_numpy(zero_copy_only=False)
        return np.array(known, np.uint64)[index]

    def summary(self) -> tuple[int, int, str]:
        """Return rows, messages and the hash of all columns."""
        return self.rows, self.messages, "".join(d.hexdigest() for d in self._digests.values())


def _text_number(known: dict, text: str | None) -> int:
    """Return a number that stands for a text, the same wherever it is asked for; missing is none of the texts."""
    if text not in known:
        data = b"\0" if text is None else b"\1" + text.encode()
        known[text] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return known[text]


class VerifiedWriter(SessionWriter):
    """A session writer that remembers what it wrote; `verify` reads everything back before `finish`."""

    def __init__(self, sessions: Path, session_id: str):
        super().__init__(sessions, session_id)
        self._written: dict[str, Content] = {}

    def write(self, name: str, table: pa.Table) -> None:
        """Append rows to a table and remember their content."""
        if table.num_rows:
            table = table.cast(TABLES[name])
            self._written.setdefault(name, Content(name)).fold(table)
            super().write(name, table)

    def verify(self, frames: int) -> None:
        """Raise SourceFailed unless the files hold what was written, and as many messages as there were frames."""
        messages = 0
        for name, written in self._written.items():
            found = self._read_back(name)
            if found.summary() != written.summary():
                raise SourceFailed(f"{self.folder / name} does not hold what was written to it ({found.rows} rows, "
                                   f"{written.rows} were written); the journal was kept, check the disk")
            messages += found.messages
        if messages != frames:
            raise SourceFailed(f"{self.folder} holds {messages} messages of {frames} frames; the journal was kept")

    def _read_back(self, name: str) -> Content:
        found = Content(name)
        for path in sorted((self.folder / name).glob("*.parquet")):
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=BATCH_ROWS):
                        found.fold(batch)
            except (pa.ArrowException, OSError) as error:
                text = str(error).splitlines()[0]
                raise SourceFailed(f"{path} cannot be read back ({text}); the journal was kept") from None
        return found
