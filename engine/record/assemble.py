"""The one order of a session: messages merged by time, with timer, connection and gap rows between them."""

import numpy as np
import pyarrow as pa

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel.records import FIRST, LAST, MISSING
from engine.record.groups import ROW_COLUMNS, Gaps, Group
from engine.record.intake import Intake
from engine.record.store import TABLES, SessionWriter

MAX_TIMERS = 30_000_000  # a month at 100 ms
CHUNK_ROWS = 4_000_000
STREAMS = ("trades", "depth", "best", "quotes")


class Assembly:
    """Gives every message, gap, connection and timer its seq and its strictly increasing recv_ns."""

    def __init__(self, intake: Intake, timer_ms: int):
        self.groups = [Group(intake, *key, intake.blocks.pop(key)) for key in sorted(intake.blocks)]
        self.duplicates = sum(g.duplicates for g in self.groups)
        recv_ns = np.concatenate([g.recv_ns for g in self.groups])
        order = np.concatenate([g.order for g in self.groups])
        self._ranked = np.lexsort((order, recv_ns))
        ordered_ns = recv_ns[self._ranked]
        self.messages = len(ordered_ns)
        self.first_recv_ns, self.last_recv_ns = int(ordered_ns[0]), int(ordered_ns[-1])
        self._connected = [(g.symbol, g.table) for g in self.groups if g.table in STREAMS]
        self._find_gaps()
        self._place(ordered_ns, timer_ms)

    def _find_gaps(self) -> None:
        rank = np.empty(self.messages, np.int64)
        rank[self._ranked] = np.arange(self.messages)
        starts = np.cumsum([0] + [len(g) for g in self.groups])
        found = [(group, gaps, rank[start + gaps.message]) for group, start in zip(self.groups, starts, strict=False)
                 for gaps in group.gaps() if len(gaps.message)]
        self._gap_parts: list[tuple[Group, Gaps, np.ndarray]] = found
        self._gap_rank = np.sort(np.concatenate([r for _, _, r in found])) if found else np.empty(0, np.int64)

    def _place(self, ordered_ns: np.ndarray, timer_ms: int) -> None:
        step_ns = int(timer_ms * 1_000_000)
        self.timers = np.empty(0, np.int64)
        if step_ns > 0:
            number = (self.last_recv_ns - self.first_recv_ns) // step_ns
            if number > MAX_TIMERS:
                days = (self.last_recv_ns - self.first_recv_ns) / 86_400e9
                raise BadInput(f"the files span {days:.1f} days, which makes {number} timer rows of {timer_ms} ms "
                               f"where {MAX_TIMERS} are allowed; import recordings of different times separately")
            self.timers = np.arange(-(-self.first_recv_ns // step_ns), self.last_recv_ns // step_ns + 1) * step_ns
        head = len(self._connected)
        gaps_upto = np.searchsorted(self._gap_rank, np.arange(self.messages), "right")
        position = head + np.arange(self.messages) + gaps_upto + np.searchsorted(self.timers, ordered_ns, "right")
        before = np.searchsorted(ordered_ns, self.timers, "left")
        timer_position = head + before + np.searchsorted(self._gap_rank, before, "left") + np.arange(len(self.timers))
        total = head + self.messages + len(self._gap_rank) + len(self.timers)
        times = np.empty(total, np.int64)
        times[:head] = self.first_recv_ns - head + np.arange(head)
        times[position] = ordered_ns
        times[position[self._gap_rank] - 1] = ordered_ns[self._gap_rank] - 1
        times[timer_position] = self.timers
        along = np.arange(total)
        self.recv_ns = np.maximum.accumulate(times - along) + along
        self.total = total
        self.bumped = int((self.recv_ns[position] != ordered_ns).sum())
        self._rank_position, self._timer_position = position, timer_position

    def _positions(self) -> list[np.ndarray]:
        of_message = np.empty(self.messages, np.int64)
        of_message[self._ranked] = self._rank_position
        return np.split(of_message, np.cumsum([len(g) for g in self.groups])[:-1])

    def write(self, writer: SessionWriter, instruments: dict[str, Instrument]) -> None:
        """Write every table in order of seq."""
        positions = self._positions()
        for name in TABLES:
            own = [(g, p) for g, p in zip(self.groups, positions, strict=True) if g.table == name]
            write_groups(writer, name, [(g, p + 1, self.recv_ns[p]) for g, p in own], instruments)
        self._write_feed(writer, sorted(instruments))

    def _write_feed(self, writer: SessionWriter, symbols: list[str]) -> None:
        gaps = self.gaps()
        head, number = len(self._connected), len(self._connected) + len(gaps)
        of_gaps = np.array([g["seq"] - 1 for g in gaps], np.int64)
        position = np.concatenate([np.arange(head), of_gaps, self._timer_position])
        size = len(position)
        of_symbol = np.full(size, -1, np.int16)
        of_symbol[:number] = [symbols.index(s) for s in [s for s, _ in self._connected] + [g["symbol"] for g in gaps]]
        code, stream = np.full(size, 2, np.int8), np.full(size, 4, np.int8)
        code[:head], code[head:number] = 0, 1
        stream[:number] = [STREAMS.index(t) for t in [t for _, t in self._connected] + [g["table"] for g in gaps]]
        from_id, to_id = np.full((2, size), MISSING)
        from_id[head:number], to_id[head:number] = [g["after"] for g in gaps], [g["before"] for g in gaps]
        texts = ["", *[g["detail"] for g in gaps]]
        detail = np.zeros(size, np.int64)
        detail[head:number] = np.arange(1, len(gaps) + 1)
        index = np.argsort(position)
        for at in range(0, size, CHUNK_ROWS):
            rows = index[at:at + CHUNK_ROWS]
            columns = {
                "seq": pa.array(position[rows] + 1), "recv_ns": pa.array(self.recv_ns[position[rows]]),
                "event_ns": pa.nulls(len(rows), pa.int64()), "symbol": _array("symbol", of_symbol[rows], symbols),
                "code": pa.array(["connected", "gap", "timer"]).take(pa.array(code[rows])),
                "stream": pa.array([*STREAMS, ""]).take(pa.array(stream[rows])),
                "from_id": _array("from_id", from_id[rows], symbols), "to_id": _array("to_id", to_id[rows], symbols),
                "detail": pa.array(texts).take(pa.array(detail[rows]))}
            writer.write("feed", pa.table(columns))

    def gaps(self) -> list[dict]:
        """Return every hole with the seq of its feed row; `missing` is null where the venue's ids are not dense."""
        found = []
        for group, gaps, rank in self._gap_parts:
            dense = group.table == "trades" or group.intake.venues[group.symbol].venue == "binance_spot"
            positions = self._rank_position[rank] - 1
            for position, after, before, detail in zip(positions, gaps.from_id, gaps.to_id, gaps.detail, strict=True):
                found.append({"seq": int(position) + 1, "recv_ns": int(self.recv_ns[position]), "table": group.table,
                              "symbol": group.symbol, "after": int(after), "before": int(before),
                              "missing": int(before - after) - 1 if dense else None, "detail": detail})
        return sorted(found, key=lambda gap: gap["seq"])


def write_groups(writer: SessionWriter, name: str, parts: list[tuple[Group, np.ndarray, np.ndarray]],
                 instruments: dict[str, Instrument]) -> None:
    """Write groups of one table, each with the seq and recv_ns of its messages, in order of seq; they are emptied."""
    symbols = sorted(instruments)
    columns: dict[str, list] = {field: [] for field in TABLES[name].names}
    for group, seq, recv_ns in parts:
        number = np.full(len(group), symbols.index(group.symbol), np.int16)
        own = {"seq": seq, "recv_ns": recv_ns, "event_ns": group.event_ns, "symbol": number}
        for field, values in _columns(group, own, instruments[group.symbol]).items():
            columns[field].append(values)
        group.columns.clear()
    merged = {field: np.concatenate(values) for field, values in columns.items() if values}
    index = np.argsort(merged["seq"], kind="stable") if merged else ()
    for at in range(0, len(index), CHUNK_ROWS):
        rows = index[at:at + CHUNK_ROWS]
        arrays = [_array(field, merged[field][rows], symbols) for field in columns]
        writer.write(name, pa.Table.from_arrays(arrays, names=list(columns)))


def _columns(group: Group, own: dict[str, np.ndarray], instrument: Instrument) -> dict[str, np.ndarray]:
    """Return every column of a group, prices and quantities in steps; `own` holds those that are not the group's."""
    columns = dict(own)
    for name in list(group.columns):
        stepped = name.endswith(("_ticks", "_lots"))
        columns[name] = group.steps(name, instrument) if stepped else group.columns[name]
    return columns if group.counts is None else _depth_rows(columns, group.counts)


def _depth_rows(columns: dict[str, np.ndarray], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return one row per level, the ends of each message marked; a message without levels is one row of nulls."""
    rows = np.maximum(counts, 1)
    message = np.repeat(np.arange(len(counts)), rows)
    ends = np.cumsum(rows)
    first, last = np.zeros(len(message), np.uint16), np.zeros(len(message), np.uint16)
    first[ends - rows], last[ends - 1] = FIRST, LAST
    filled = np.repeat(counts > 0, rows)
    result = {}
    for name, values in columns.items():
        if name in ROW_COLUMNS:
            result[name] = np.full(len(message), 0 if name == "side" else MISSING, values.dtype)
            result[name][filled] = values
        else:
            result[name] = values[message]
    result["bits"] = result["bits"].astype(np.uint16) | first | last
    return result


def _array(name: str, values: np.ndarray, symbols: list[str]) -> pa.Array:
    if name == "symbol":
        return pa.DictionaryArray.from_arrays(pa.array(values, mask=values < 0), pa.array(symbols))
    if values.dtype == np.int64:
        return pa.array(values, mask=values == MISSING)
    return pa.array(values)
