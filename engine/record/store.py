"""Session folders: a manifest and one folder of Parquet per table, written aside and renamed when whole."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import BadInput
from engine.instruments import Instrument

FORMAT_VERSION = 1
ROW_GROUP_ROWS = 131_072

# Bits of the `bits` column; the same numbers as engine.kernel.records.
_I64, _I8, _U16 = pa.int64(), pa.int8(), pa.uint16()
_SYMBOL = pa.dictionary(pa.int16(), pa.string())
_KEY = [("seq", _I64), ("recv_ns", _I64), ("event_ns", _I64), ("symbol", _SYMBOL)]

TABLES: dict[str, pa.Schema] = {
    # side: +1 the taker bought, -1 the taker sold
    "trades": pa.schema(_KEY + [("price_ticks", _I64), ("qty_lots", _I64), ("side", _I8), ("trade_id", _I64),
                                ("first_id", _I64), ("last_id", _I64), ("bits", _U16)]),
    # one row per level; side: +1 bid, -1 ask; a message without levels is one row with null price_ticks and qty_lots
    "depth": pa.schema(_KEY + [("side", _I8), ("price_ticks", _I64), ("qty_lots", _I64), ("first_id", _I64),
                               ("last_id", _I64), ("prev_id", _I64), ("bits", _U16)]),
    "best": pa.schema(_KEY + [("bid_price_ticks", _I64), ("bid_qty_lots", _I64), ("ask_price_ticks", _I64),
                              ("ask_qty_lots", _I64), ("update_id", _I64)]),
    "quotes": pa.schema(_KEY + [("bid_price_ticks", _I64), ("ask_price_ticks", _I64), ("bits", _U16)]),
    # side is that of the liquidation order: -1 means a long was closed
    "liquidations": pa.schema(_KEY + [("side", _I8), ("price_ticks", _I64), ("qty_lots", _I64),
                                      ("average_price_e8", _I64), ("filled_lots", _I64)]),
    "marks": pa.schema(_KEY + [("mark_price_e8", _I64), ("index_price_e8", _I64), ("funding_rate_e8", _I64),
                               ("next_funding_ns", _I64)]),
    "klines": pa.schema(_KEY + [("open_ns", _I64), ("close_ns", _I64), ("interval", pa.string()),
                                ("open_ticks", _I64), ("high_ticks", _I64), ("low_ticks", _I64), ("close_ticks", _I64),
                                ("volume_lots", _I64), ("taker_buy_lots", _I64), ("trades", _I64), ("closed", pa.bool_())]),
    # code: connected lost gap resync stale timer note; stream: trades depth best quotes, or empty for all
    # a note is a frame of which no other row is stored: it keeps seq dense and says nothing of any feed
    "feed": pa.schema(_KEY + [("code", pa.string()), ("stream", pa.string()), ("from_id", _I64), ("to_id", _I64),
                              ("detail", pa.string())]),
    # code: opened stop take volume closed stopped taken; ticket is the position's identifier; event_ns when it was opened
    "account": pa.schema(_KEY + [("ticket", _I64), ("code", pa.string()), ("side", _I8), ("price_ticks", _I64),
                                 ("qty_lots", _I64), ("bits", _U16), ("detail", pa.string())]),
    # how a decision ended at the broker: state done refused failed unknown; code as in the fills of a run
    "orders": pa.schema(_KEY + [("ticket", _I64), ("decision", pa.string()), ("rule", pa.string()), ("state", pa.string()),
                                ("code", pa.string()), ("price_ticks", _I64), ("left_lots", _I64), ("closed_lots", _I64),
                                ("stop_ticks", _I64), ("net_e8", _I64), ("sends", _I64), ("retcodes", pa.string()),
                                ("reason", pa.string())]),
    # record: the kernel's DECISION record in hex, trigger_seq the event it was made on
    "decisions": pa.schema(_KEY + [("decision", pa.string()), ("ticket", _I64), ("rule", pa.string()), ("action", pa.string()),
                                   ("mode", pa.string()), ("result", pa.string()), ("trigger_seq", _I64), ("bid_ticks", _I64),
                                   ("ask_ticks", _I64), ("stop_ticks", _I64), ("volume_left", _I64), ("age_ns", _I64),
                                   ("record", pa.string())]),
    # a rule had another mode from here on; number is its place among the rules
    "switches": pa.schema(_KEY + [("rule", pa.string()), ("number", _I64), ("mode", pa.string()), ("was", pa.string()),
                                  ("reason", pa.string())]),
}
OWN_TABLES = ("account", "orders", "decisions", "switches")        # what the engine saw of the account, or did
_DICTIONARY = {"symbol", "code", "stream", "detail", "interval"}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with open(aside, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file with delta-coded integers, zstd, and row groups sized for streaming."""
    integers = [f.name for f in table.schema if pa.types.is_integer(f.type) and f.type.bit_width > 16]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP_ROWS,
                       use_dictionary=[f.name for f in table.schema if f.name in _DICTIONARY or f.name in ("side", "bits")],
                       column_encoding={name: "DELTA_BINARY_PACKED" for name in integers},
                       write_statistics=["seq", "recv_ns"])
        file.flush()
        os.fsync(file.fileno())


class SessionWriter:
    """Builds a session in a hidden folder beside its final place; `finish` renames it, `abandon` leaves nothing."""

    def __init__(self, sessions: Path, session_id: str):
        self.final = sessions / session_id
        if self.final.exists():
            raise BadInput(f"session {session_id} already exists at {self.final}; give another name with --name or remove it")
        sessions.mkdir(parents=True, exist_ok=True)
        self.folder = sessions / f".{session_id}.{uuid.uuid4().hex[:8]}"
        self.folder.mkdir()
        self.rows: dict[str, int] = {}
        self._parts: dict[str, int] = {}

    def write(self, name: str, table: pa.Table) -> None:
        """Append rows, already ordered by seq, to a table; the schema is TABLES[name]."""
        if table.num_rows == 0:
            return
        part = self._parts.get(name, 0)
        self._parts[name] = part + 1
        write_table(self.folder / name / f"{part:05d}.parquet", table.cast(TABLES[name]))
        self.rows[name] = self.rows.get(name, 0) + table.num_rows

    def finish(self, manifest: dict) -> Path:
        """Write the manifest with the hash of every file, and put the session in its place."""
        files = {p.relative_to(self.folder).as_posix(): {"sha256": file_sha256(p), "bytes": p.stat().st_size}
                 for p in sorted(self.folder.rglob("*.parquet"))}
        body = {"format": FORMAT_VERSION, "session": self.final.name, **manifest,
                "rows": {name: self.rows.get(name, 0) for name in TABLES}, "files": files, "state": "complete"}
        write_text_atomic(self.folder / "manifest.json", json.dumps(body, indent=1) + "\n")
        os.replace(self.folder, self.final)
        return self.final

    def abandon(self) -> None:
        """Remove everything written so far."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Session:
    """A session folder, opened for reading; damage is reported, never read over."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        place = self.path / "manifest.json"
        if not place.is_file():
            raise BadInput(f"{self.path} is not a session: it has no manifest.json")
        try:
            self.manifest = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{place} is not valid JSON ({error}); import or record the session again") from None
        found = self.manifest.get("format") if isinstance(self.manifest, dict) else None
        if found != FORMAT_VERSION:
            raise BadInput(f"{place} has format {found!r}; this version reads {FORMAT_VERSION}")
        absent = {"session", "instruments", "files", "rows"} - set(self.manifest)
        if absent:
            raise BadInput(f"{place} lacks {', '.join(sorted(absent))}; import or record the session again")
        try:
            self.instruments = [Instrument(**entry) for entry in self.manifest["instruments"]]
        except TypeError as error:
            raise BadInput(f"{place} has an instrument that is not understood ({error})") from None

    @property
    def id(self) -> str:
        """The session's name."""
        return self.manifest["session"]

    def instrument(self, symbol: str) -> Instrument:
        """Return the instrument of a symbol, or raise BadInput naming those there are."""
        for entry in self.instruments:
            if entry.symbol == symbol:
                return entry
        raise BadInput(f"session {self.id} has no symbol {symbol!r}; it has {', '.join(i.symbol for i in self.instruments)}")

    def files(self, name: str) -> list[Path]:
        """Return the Parquet files of a table in order, having seen that each listed one is there and of its size."""
        found = []
        for relative, facts in sorted(self.manifest["files"].items()):
            if relative.split("/")[0] != name:
                continue
            path = self.path / relative
            if not path.is_file():
                raise BadInput(f"{path} is missing; the manifest of session {self.id} lists it. Import or record the session again")
            if path.stat().st_size != facts["bytes"]:
                raise BadInput(f"{path} has {path.stat().st_size} bytes, the manifest says {facts['bytes']}; the file was altered")
            found.append(path)
        return found

    def verify(self, name: str) -> None:
        """Raise BadInput when a file of the table does not have the bytes the manifest lists."""
        for path in self.files(name):
            if file_sha256(path) != self.manifest["files"][path.relative_to(self.path).as_posix()]["sha256"]:
                raise BadInput(f"{path} was altered: its SHA-256 is not the one in the manifest of session {self.id}")

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a whole table; an absent one is an empty table of the right schema."""
        files = self.files(name)
        if not files:
            empty = TABLES[name].empty_table()
            return empty.select(columns) if columns else empty
        return pa.concat_tables([pq.read_table(path, columns=columns) for path in files], promote_options="permissive")

    def batches(self, name: str, columns: list[str], rows: int = ROW_GROUP_ROWS) -> Iterator[pa.RecordBatch]:
        """Stream a table in order, a bounded number of rows at a time."""
        for path in self.files(name):
            yield from pq.ParquetFile(path).iter_batches(batch_size=rows, columns=columns)


def sessions_folder(data: Path) -> Path:
    """Return where sessions live under a data root."""
    return data / "sessions"
