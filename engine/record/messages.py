"""Session tables as numpy columns, read in bounded parts; of book messages alone what is not a level is kept."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.errors import BadInput
from engine.kernel.records import FIRST, LAST, MISSING
from engine.record.store import ROW_GROUP_ROWS, TABLES, Session

Columns = dict[str, np.ndarray]
ALL = -1                       # symbol number of a row that names none
UNKNOWN = -2                   # symbol number of a name the manifest lacks


class Messages:
    """Reads the tables of one session from the files found good."""

    def __init__(self, session: Session, files: dict[str, list[Path]]):
        self.session = session
        self.files = files
        self.symbols = [instrument.symbol for instrument in session.instruments]
        self._depth: Columns | None = None
        self._in_order: dict[str, bool] = {}
        self._words: dict[str, int] = {"": 0}
        self.torn: list[int] = []    # seq of depth messages that are not whole

    def number(self, symbol: str | None) -> int:
        """Return the number of a symbol's name, ALL of none."""
        return ALL if symbol is None else self.symbols.index(symbol) if symbol in self.symbols else UNKNOWN

    def batches(self, name: str, columns: list[str]) -> Iterator[Columns]:
        """Yield columns of a table as numpy: missing integers as MISSING, symbols as numbers, other texts as words."""
        for path in self.files.get(name, []):
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS, columns=columns):
                        yield {column: self._numpy(column, batch.column(column)) for column in columns}
            except (pa.ArrowException, OSError) as error:
                raise BadInput(f"{path} is not readable Parquet: {str(error).splitlines()[0]}") from None

    def _numpy(self, column: str, array: pa.Array) -> np.ndarray:
        if pa.types.is_integer(array.type):
            missing = MISSING if array.type == pa.int64() else 0
            return pc.fill_null(array, pa.scalar(missing, array.type)).to_numpy(zero_copy_only=False)
        if pa.types.is_boolean(array.type):
            return array.to_numpy(zero_copy_only=False)
        coded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        texts = coded.dictionary.to_pylist()
        if column == "symbol":
            numbers = [self.number(text) for text in texts]
        else:
            numbers = [self._words.setdefault(text, len(self._words)) for text in texts]
        none = ALL if column == "symbol" else self._words[""]
        index = pc.fill_null(coded.indices.cast(pa.int64()), len(texts)).to_numpy(zero_copy_only=False)
        return np.array([*numbers, none], np.int64)[index]

    def word(self, text: str) -> int:
        """Return the number that stands for a text in the columns read, -1 when none has it yet."""
        return self._words.get(text, -1)

    def text(self, word: int) -> str:
        """Return the text of a number."""
        return list(self._words)[word]

    def depth(self) -> Columns:
        """Return the columns of depth with one entry per frame, and its `row` and `rows`; torn frames are noted."""
        if self._depth is None:
            self._depth = self._read_depth()
        return self._depth

    def _read_depth(self) -> Columns:
        columns = ["seq", "recv_ns", "event_ns", "symbol", "first_id", "last_id", "prev_id", "bits"]
        parts: list[Columns] = []
        before: tuple[int, int] | None = None       # seq and recv_ns of the row above
        open_frame = False
        row = 0
        for batch in self.batches("depth", columns):
            seq, recv, bits = batch["seq"], batch["recv_ns"], batch["bits"]
            new = np.ones(len(seq), bool)
            new[1:] = seq[1:] != seq[:-1]
            new[0] = before is None or seq[0] != before[0]
            above = np.concatenate(([before[1] if before else recv[0]], recv[:-1]))
            ended = np.concatenate(([not open_frame], bits[:-1] & LAST > 0))
            wrong = (new != (bits & FIRST > 0)) | (new != ended) | (~new & (recv != above))
            if wrong.any():
                self.torn += np.unique(seq[wrong]).tolist()
            starts = np.flatnonzero(new)
            parts.append({name: batch[name][starts] for name in columns} | {"row": starts + row})
            parts[-1]["symbol"] = parts[-1]["symbol"].astype(np.int16)
            before, open_frame = (seq[-1], recv[-1]), not bits[-1] & LAST
            row += len(seq)
        if open_frame:
            self.torn.append(int(before[0]))
        whole = joined("depth", parts, [*columns, "row"])
        return whole | {"rows": np.diff(np.append(whole["row"], row)).astype(np.int32)}

    def parts(self, name: str, columns: list[str]) -> Iterator[Columns]:
        """Yield columns of a table in bounded parts; those of depth, one entry per frame, at once."""
        if name != "depth":
            yield from self.batches(name, columns)
        elif len(self.depth()["seq"]):
            yield {column: self.depth()[column] for column in columns}

    def frames(self, name: str, columns: list[str]) -> Iterator[Columns]:
        """Yield a table in parts that split no frame, each but the first with the row above it at its head."""
        rest: Columns = {}
        if name == "depth":
            yield from self.parts(name, columns)
            return
        for part in self.batches(name, columns):
            if rest:
                part = {column: np.concatenate((rest[column], part[column])) for column in columns}
            others = np.flatnonzero(part["seq"] != part["seq"][-1])
            cut = int(others[-1]) + 1 if len(others) else 0        # where the last frame begins
            if cut:
                yield {column: part[column][:cut] for column in columns}
            rest = {column: part[column][max(cut - 1, 0):] for column in columns}
        if rest:
            yield rest

    def ordered(self, name: str, parts: Iterable[Columns]) -> Iterable[Columns]:
        """Return parts of a table in the order of seq: as they are when the table is, else as one."""
        if name not in self._in_order:
            self._in_order[name] = all((np.diff(part["seq"]) >= 0).all() for part in self.frames(name, ["seq"]))
        if self._in_order[name]:
            return parts
        found = list(parts)
        whole = joined(name, found, list(found[0]))
        order = np.argsort(whole["seq"], kind="stable")
        return [{column: values[order] for column, values in whole.items()}]

    def previous_ids(self, symbol: int, first_id: np.ndarray, prev_id: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the id each diff continues, and whether it must equal the id before (USD-M) or not pass it (spot)."""
        spot = self.session.instruments[symbol].venue == "binance_spot"
        guess = np.where(first_id == MISSING, MISSING, first_id - 1)
        return (guess if spot else np.where(prev_id == MISSING, guess, prev_id)), not spot


def joined(name: str, parts: list[Columns], columns: list[str]) -> Columns:
    """Return the columns of all parts of a table as one; the parts are used up."""
    return {column: _concatenated(name, column, [part.pop(column) for part in parts]) for column in columns}


def _concatenated(name: str, column: str, parts: list[np.ndarray]) -> np.ndarray:
    if parts:
        return np.concatenate(parts)
    if column not in TABLES[name].names:
        return np.empty(0, np.int64)
    kind = TABLES[name].field(column).type
    return np.empty(0, kind.to_pandas_dtype() if pa.types.is_integer(kind) else np.int64)
