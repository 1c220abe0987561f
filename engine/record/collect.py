"""Journaled frames to session tables, a bounded part at a time; every frame keeps its seq and its recv_ns."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.instruments import Instrument
from engine.record.assemble import write_groups
from engine.record.decode import Quote
from engine.record.frames import Feed, given_instruments, listed_steps, lost_message, read_frame
from engine.record.grid import Grids
from engine.record.groups import Group, NotWhole
from engine.record.importer import instruments_of
from engine.record.intake import Intake, Source
from engine.record.own import Own
from engine.record.segment import HEAD_BYTES, INSTRUMENTS, REST, Frame, JournalReader
from engine.record.store import TABLES, SessionWriter

PART_BYTES = 16 << 20          # of payload; what is written together
SKIPPED_SHOWN = 1_000          # malformed messages listed; all are counted
DENSE = "binance_spot"         # the venue whose update ids have no holes of their own


class NeedsScan(Exception):
    """The step sizes have to be found from the values first; `note` says why."""

    def __init__(self, note: str = ""):
        super().__init__(note)
        self.note = note


class FrameIntake(Intake):
    """An intake of frames: the place of a message is its seq, and nothing ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.begin(Source(0, Path("journal"), "journal", "", "receive"))
        self.bad: dict[int, tuple[str | None, str, str]] = {}     # seq: table, symbol, reason
        self._taking = "", ""

    def claim(self, line: int, symbol: str) -> None:
        """Take any symbol: the venue was compared before."""

    def check_time(self, line: int, time_ns: int, what: str = "receive time") -> None:
        """Take any time: the journal has put it in order."""

    def skip(self, line: int, reason: str) -> None:
        """Remember why a message cannot be stored."""
        self.bad[line] = (*self._taking, reason)

    def put_columns(self, table, symbol, lines, recv_ns, event_ns, columns) -> None:
        """Take messages as columns, remembering what they are of."""
        self._taking = table, symbol
        super().put_columns(table, symbol, lines, recv_ns, event_ns, columns)

    def where(self, place: int) -> str:
        """Return a place as text for a sentence."""
        return f"seq {place}"


class Collector:
    """Takes frames in order; with a writer they become rows, without one only step sizes are learnt."""

    def __init__(self, reader: JournalReader, writer: SessionWriter | None, instruments: dict[str, Instrument]):
        self.reader, self.writer, self.instruments = reader, writer, dict(instruments)
        self.scanned = bool(instruments)
        self.intake = FrameIntake()
        self.stated: dict[str, tuple[str, str]] = {}       # tick and lot size the venue states
        self.given: dict[str, Instrument] = {}             # what the live loop used
        self.frames_of: Counter[int] = Counter()
        self.malformed = self.messages = 0
        self.skipped: list[dict] = []
        self.gaps: list[dict] = []
        self.first_recv_ns = self.last_recv_ns = 0         # of messages
        self.last_seq = self._before_ns = 0
        self._grids = Grids(())
        self._sources: dict[str, Source] = {}
        self._seen: dict[tuple[str, str], dict[str, int]] = {}
        self._new_part()

    def _new_part(self) -> None:
        self.part_bytes = 0
        self.recv_ns: list[int] = []                       # of every seq of the part
        self.feed: list[tuple[int, Feed]] = []
        self.own: dict[str, list[dict]] = {}               # rows of the engine's own tables

    def take(self, frame: Frame) -> None:
        """Take the next frame."""
        if frame.seq != self.last_seq + 1:
            self.lose(frame.seq - 1, frame.recv_ns)
        self.last_seq = frame.seq
        self.recv_ns.append(frame.recv_ns)
        self._before_ns = frame.recv_ns
        self.part_bytes += HEAD_BYTES + len(frame.payload)
        self.frames_of[frame.source] += 1
        if frame.kind == INSTRUMENTS:
            self.given |= {i.symbol: i for i in given_instruments(frame)}
            self._grids = Grids(self.given.values())
        elif frame.kind == REST:
            self.stated = listed_steps(frame) | self.stated
        origins = self.reader.sources
        found = read_frame(frame, origins)
        venue = origins[frame.source].venue if frame.source < len(origins) else ""
        if isinstance(found, Feed):
            self._note(frame.seq, found, venue)
            return
        if isinstance(found, Own):
            self._keep(frame, found, venue)
            return
        for message in found:
            if self._claim(message.symbol, venue):
                self.intake.put(frame.seq, frame.recv_ns, self._grids.place(message) if type(message) is Quote else message)
            else:
                reason = f"{message.symbol} is already known from another venue"
                self.intake.bad[frame.seq] = (None, message.symbol, reason)

    def _claim(self, symbol: str, venue: str) -> bool:
        known = self.intake.venues.get(symbol)
        if known is None:
            source = self._sources.setdefault(venue, Source(0, Path(venue), "journal", venue, "receive"))
            known = self.intake.venues.setdefault(symbol, source)
        return known.venue == venue

    def _note(self, seq: int, row: Feed, venue: str) -> None:
        """Keep a feed row; one of a symbol this recording knows nothing of becomes a note."""
        if row.symbol is not None:
            if venue:
                self._claim(row.symbol, venue)
            if row.symbol not in self.intake.venues:
                text = f"{row.code} {row.stream} of {row.symbol}: {row.detail}"
                row = Feed("note", detail=text, malformed=row.malformed)
        if row.malformed:
            self._count(seq, row.detail)
        self.feed.append((seq, row))

    def _keep(self, frame: Frame, own: Own, venue: str) -> None:
        """Keep the rows of a frame that the engine wrote itself."""
        for row in own.rows:
            if row["symbol"] is not None:
                self._claim(row["symbol"], venue)
            self.own.setdefault(own.table, []).append({"seq": frame.seq, "recv_ns": frame.recv_ns, **row})

    def _count(self, seq: int, reason: str) -> None:
        self.malformed += 1
        if self.malformed <= SKIPPED_SHOWN:
            self.skipped.append({"file": "journal", "line": seq, "seq": seq, "reason": reason})

    def lose(self, last_seq: int, next_ns: int = 0) -> None:
        """Put feed rows where frames were lost, so that seq stays dense: a gap of every stream, then notes."""
        lost = range(self.last_seq + 1, last_seq + 1)
        if not lost:
            return
        start_ns = self._before_ns + 1 if self._before_ns else next_ns - len(lost)
        self.recv_ns += range(start_ns, start_ns + len(lost))
        detail = f"the journal is damaged: seq {lost[0]} to {lost[-1]} are lost"
        self.feed.append((lost[0], Feed("gap", detail=detail)))
        self.feed += [(seq, Feed("note", detail="lost")) for seq in lost[1:]]
        self.last_seq, self._before_ns = last_seq, self.recv_ns[-1]

    def end_part(self) -> None:
        """Write what was taken since the last part."""
        if not self.recv_ns:
            return
        self.intake.end()
        if self.writer is not None:
            self.require_steps()
            groups = [Group(self.intake, *key, self.intake.blocks[key], keep_doubles=True)
                      for key in sorted(self.intake.blocks)]
            self._complete(groups)
            self._measure(groups)
            self._write(groups)
        self.intake.blocks.clear()
        self.intake.bad.clear()
        self._new_part()

    def steps(self) -> dict[str, tuple[str, str]]:
        """Return the stated tick and lot size of every symbol: those of the live loop, else the venue's."""
        return self.stated | {symbol: (i.tick_size, i.lot_size) for symbol, i in self.given.items()}

    def require_steps(self) -> None:
        """Make sure that every symbol so far has its steps; raise NeedsScan where one has none."""
        steps = self.steps()
        for symbol in self.intake.venues.keys() - self.instruments.keys():
            if symbol not in steps:
                raise NeedsScan
            venue = self.intake.venues[symbol].venue
            self.instruments[symbol] = Instrument(symbol, venue, *steps[symbol], 0, 0, "venue")

    def final_instruments(self) -> tuple[list[Instrument], list[str]]:
        """Return the instruments as the manifest lists them, with the decimals the venue wrote, and notes on them."""
        ticks = {symbol: i.tick_size for symbol, i in self.instruments.items()}
        lots = {symbol: i.lot_size for symbol, i in self.instruments.items()}
        found, notes = instruments_of(self.intake, ticks, lots)
        final = []
        for i in found:
            used, live = self.instruments[i.symbol], self.given.get(i.symbol)
            if live is not None and (live.tick_size, live.lot_size) == (used.tick_size, used.lot_size):
                final.append(live)
            else:
                final.append(replace(i, scale_source=used.scale_source))
        return final, notes

    def _complete(self, groups: list[Group]) -> None:
        """Give every frame that left no row its feed row."""
        first = self.last_seq - len(self.recv_ns) + 1
        covered = np.zeros(len(self.recv_ns), bool)
        for group in groups:
            covered[group.place - first] = True
        covered[[seq - first for seq, _ in self.feed]] = True
        covered[[row["seq"] - first for rows in self.own.values() for row in rows]] = True
        for seq, (table, symbol, reason) in sorted(self.intake.bad.items()):
            self._count(seq, reason)
            if not covered[seq - first]:
                covered[seq - first] = True
                self.feed.append((seq, lost_message(symbol, table, reason)))
        if not covered.all():
            raise ValueError(f"seq {first + int(np.argmin(covered))} left no row")
        self.feed.sort(key=lambda row: row[0])

    def _measure(self, groups: list[Group]) -> None:
        """Note the times of messages and the breaks in their ids."""
        for group in groups:
            if not len(group):
                continue
            self.messages += len(group)
            low, high = int(group.recv_ns[0]), int(group.recv_ns[-1])
            self.first_recv_ns = min(self.first_recv_ns or low, low)
            self.last_recv_ns = max(self.last_recv_ns, high)
            self._find_gaps(group)

    def _find_gaps(self, group: Group) -> None:
        dense = group.table == "trades" or self.intake.venues[group.symbol].venue == DENSE
        for gaps in group.gaps(self._seen.setdefault((group.table, group.symbol), {})):
            for at, after, before, detail in zip(gaps.message, gaps.from_id, gaps.to_id, gaps.detail, strict=True):
                self.gaps.append({"seq": int(group.place[at]), "recv_ns": int(group.recv_ns[at]),
                                  "table": group.table, "symbol": group.symbol, "after": int(after),
                                  "before": int(before), "missing": int(before - after) - 1 if dense else None,
                                  "detail": detail})

    def _write(self, groups: list[Group]) -> None:
        try:
            for name in TABLES:
                parts = [(g, g.place, g.recv_ns) for g in groups if g.table == name and len(g)]
                write_groups(self.writer, name, parts, self.instruments)
        except NotWhole as error:
            if self.scanned:
                raise
            raise NeedsScan(f"stated step sizes do not fit: {error}") from None
        for name, rows in self.own.items():
            self.writer.write(name, pa.Table.from_pylist(rows, schema=TABLES[name]))
        self._write_feed()

    def _write_feed(self) -> None:
        first = self.last_seq - len(self.recv_ns) + 1
        rows = [row for _, row in self.feed]
        seq = [seq for seq, _ in self.feed]
        self.writer.write("feed", pa.table({
            "seq": pa.array(seq, pa.int64()), "recv_ns": pa.array([self.recv_ns[n - first] for n in seq], pa.int64()),
            "event_ns": pa.nulls(len(seq), pa.int64()),
            "symbol": pa.array([row.symbol for row in rows], pa.string()).cast(TABLES["feed"].field("symbol").type),
            "code": pa.array([row.code for row in rows], pa.string()),
            "stream": pa.array([row.stream for row in rows], pa.string()),
            "from_id": pa.array([row.from_id for row in rows], pa.int64()),
            "to_id": pa.array([row.to_id for row in rows], pa.int64()),
            "detail": pa.array([row.detail for row in rows], pa.string())}))
