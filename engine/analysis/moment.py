"""A session, or a live stream, folded up to one moment: the kernel's own arrays, read and never written."""

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path

import numpy as np

from engine.analysis.symbols import resolve
from engine.analysis.tape import NS, Tape, between
from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel import records as R
from engine.positions import open_desk
from engine.record.recording import Recording, Tail
from engine.record.store import Session
from engine.rules import choose, find_rules
from engine.run import Run, Settings
from engine.stream import events

MODEL_TICK = "0.01"
_SAMPLES = 4_096  # one-second samples of the book
_END = 2**63 - 1


def canonical(value) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@cache
def code_version(kernel: str) -> str:
    """Return a name for everything that decides an answer: the kernel's snapshot and the text of this package."""
    digest = hashlib.sha256(kernel.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"{metadata.version('tapeguard')}+{digest.hexdigest()[:12]}"


@cache
def score_code() -> str:
    """Return a name for the text that makes a score; a calibration of other text says nothing of it."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(__file__).parents[1] / "kernel"):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def parse_at(text: str | int | None, session: Session | Recording) -> int | None:
    """Return a moment in nanoseconds, from nanoseconds, +seconds after the start, or an ISO time; None is the end."""
    if text is None or text == "":
        return None
    first_ns, last_ns = session.manifest["first_recv_ns"], session.manifest["last_recv_ns"]
    said = str(text).strip()
    try:
        if re.fullmatch(r"\+[0-9]{1,9}(\.[0-9]{1,9})?s?", said):
            at_ns = first_ns + int(Fraction(said.strip("+s")) * NS)
        elif re.fullmatch(r"[0-9]{16,19}", said):
            at_ns = int(said)
        else:
            when = datetime.fromisoformat(said)
            when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
            at_ns = (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000
    except (ValueError, OverflowError):
        raise BadInput(
            f"time {said[:40]!r} is not understood; write +120s from the start, 2024-08-09T00:00:00Z, or nanoseconds"
        ) from None
    if not first_ns <= at_ns <= last_ns:
        raise BadInput(
            f"time {said[:40]} is outside session {session.id}, which runs from {utc_text(first_ns)} to "
            f"{utc_text(last_ns)}"
        )
    return at_ns


def utc_text(time_ns: int) -> str:
    """Write nanoseconds as a UTC time to the nanosecond."""
    return datetime.fromtimestamp(time_ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{time_ns % NS:09d}Z"


class Moment:
    """Folds EVENT rows with every rule off; at any seq it holds what a live loop would hold there."""

    def __init__(self, name: str, instruments: list[Instrument]):
        self.name = name
        self.instruments = instruments
        self.desk = open_desk(instruments, MODEL_TICK)
        # every shipped rule is linked, all off: one compile serves this and each replay
        self.run = Run(self.desk.pairs, [choose(find_rules(), "none", [])], [Settings()], slots=4)
        self.seq: int | None = None
        self.as_of_ns: int | None = None
        self.first_ns: int | None = None
        self.began_ns: int | None = None       # the first message of the session it is of
        self.calibrations: dict[str, dict] = {}  # what was published of the score, by symbol
        self.tapes = [Tape() for _ in self.desk.pairs]
        self.books = np.full(
            (len(self.desk.pairs), _SAMPLES, 2), np.nan
        )  # seconds since 1970, imbalance of five levels
        self.sampled = 0
        self._second: int | None = None
        self._rest: np.ndarray | None = None
        self._chunks: Iterator[np.ndarray] | None = None
        self._tail: Tail | None = None

    @classmethod
    def of_session(cls, session: Session | Recording, at_ns: int | None = None) -> "Moment":
        """Fold a session, or one that is being recorded, up to and with a receive time; `advance` goes on from there."""
        made = cls(session.id, session.instruments)
        made.began_ns = session.manifest["first_recv_ns"]
        if isinstance(session, Recording):
            made._tail = Tail(session, made.desk.numbers)
        else:
            made._chunks = events(session, made.desk.numbers)
        made.advance(at_ns)
        return made

    @property
    def record(self) -> str:
        """What names the recording in a key: its name and its first event, known live as well."""
        return f"{self.name}@{self.first_ns}"

    def advance(self, at_ns: int | None = None) -> None:
        """Fold the session on to a later time; None is its end."""
        limit = _END if at_ns is None else at_ns
        if self._tail is not None:
            self._chunks = self._tail.more()       # the journal has grown since
        while True:
            chunk = self._rest if self._rest is not None else next(self._chunks, None)
            if chunk is None:
                return
            cut = int(np.searchsorted(chunk["recv_ns"], limit, "right"))
            self.feed(chunk[:cut])
            self._rest = chunk[cut:] if cut < len(chunk) else None
            if self._rest is not None:
                return

    def feed(self, rows: np.ndarray) -> None:
        """Fold whole frames in the order of their seq, as a live loop gets them."""
        if not len(rows):
            return
        if self.first_ns is None:
            self.first_ns = int(rows["recv_ns"][0])
        timers = np.flatnonzero(rows["kind"] == R.TIMER)
        seconds = rows["recv_ns"][timers] // NS
        start = 0
        for place, second in zip(timers.tolist(), seconds.tolist(), strict=True):
            if second != self._second:
                self._second = second
                self.run.feed(rows[start : place + 1])
                self._sample(second)
                start = place + 1
        self.run.feed(rows[start:])
        trades = rows[rows["kind"] == R.TRADE]
        for number, tape in enumerate(self.tapes):
            tape.add(trades[trades["symbol"] == number])
        self.seq, self.as_of_ns = int(rows["seq"][-1]), int(rows["recv_ns"][-1])

    def _sample(self, second: int) -> None:
        place = self.sampled % _SAMPLES
        self.books[:, place, 0] = second
        self.books[:, place, 1] = self.run.arrays["market"]["top5_imbalance"]
        self.sampled += 1

    def view(self, symbol: str) -> "View":
        """Return one symbol's part, by any name it goes by."""
        if self.as_of_ns is None:
            raise BadInput(f"{self.name} has no event yet; ask again when it has")
        venue = [pair.symbol for pair in self.desk.pairs]
        name = resolve(symbol, sorted(self.desk.numbers))
        number = self.desk.numbers[name]
        return View(self, number, venue[number])

    def key(self, arguments: dict, calibration: dict | None = None) -> str:
        """Return the reproducibility key: the same key, the same bytes."""
        text = canonical(
            {
                "record": self.record,
                "seq": self.seq,
                "code": code_version(self.run.folder.name),
                "arguments": arguments,
                **({} if calibration is None else {"calibration": calibration}),
            }
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class View:
    """One symbol at one moment."""

    def __init__(self, moment: Moment, number: int, symbol: str):
        a = moment.run.arrays
        self.moment, self.number, self.symbol = moment, number, symbol
        self.pair = moment.desk.pairs[number]
        self.quoted = moment.desk.quoted[number]
        self.now_ns = moment.as_of_ns
        self.market, self.core = a["market"][number], a["core"][number]
        self.usd_per_ticklot = float(Fraction(self.pair.tick_size) * Fraction(self.pair.lot_size))
        self.tick, self.lot = Fraction(self.pair.tick_size), Fraction(self.pair.lot_size)
        instrument = next((each for each in moment.instruments if each.symbol == symbol), None)
        self.unit = "USDT" if symbol.endswith("USDT") else "quote"
        self.instrument = instrument

    @cached_property
    def calibration(self) -> dict | None:
        """Return the published calibration of this score, None where it is of other code, venue, or of this time or later."""
        found = self.moment.calibrations.get(self.symbol)
        if found is None or self.instrument is None or self.instrument.venue not in found["venues"]:
            return None
        return found if found["score_code"] == score_code() and found["to_ns"] < self.moment.first_ns else None

    @cached_property
    def trades(self) -> np.ndarray:
        """The market trades of the last hour."""
        return self.moment.tapes[self.number].rows(self.now_ns)

    @cached_property
    def slots(self) -> np.ndarray:
        """The kernel's closed 100 ms slots, oldest first."""
        count = int(self.core.slot_count)
        kept = min(count, R.SLOTS - 1)
        return self.moment.run.arrays["slots"][self.number][(np.arange(count - kept, count)) & (R.SLOTS - 1)]

    @property
    def closed_ns(self) -> int | None:
        """End of the newest closed slot."""
        return int(self.slots[-1, R.END_NS]) if len(self.slots) else None

    def age_ms(self, then_ns: int) -> float | None:
        """Return how long ago a time was, None when it is not known."""
        return None if then_ns == R.MISSING else round((self.now_ns - int(then_ns)) / 1e6, 3)

    def covered_s(self, window_s: float) -> float:
        """Return how much of a window that ends now the tape is whole over."""
        start = int(self.core.tape_from_ns)
        return 0.0 if start == R.MISSING else round(min(float(window_s), (self.now_ns - start) / NS), 3)

    def tape_reason(self, window_s: float) -> str | None:
        """Return why a window of trades is not known, None when it is."""
        if self.core.tape_from_ns == R.MISSING:
            return "no trade was recorded yet, or the trade stream is broken"
        covered = self.covered_s(window_s)
        return (
            None if covered >= window_s else f"only {covered:g} of {window_s:g} s of trades are recorded without a hole"
        )

    def sums(self, from_ns: int, to_ns: int | None = None) -> np.ndarray:
        """Return the slot sums of the slots that end in (from, to]; without an end, those and the open slot."""
        ends = self.slots[:, R.END_NS]
        low = int(np.searchsorted(ends, from_ns, "right"))
        high = len(ends) if to_ns is None else int(np.searchsorted(ends, to_ns, "right"))
        total = self.slots[low:high, : R.N_SUMS].sum(axis=0)
        return total + self.moment.run.arrays["slot"][self.number] if to_ns is None else total

    def window(self, window_s: float) -> np.ndarray:
        """Return the sums over a window that ends now, by the kernel's own rule."""
        last = self.closed_ns
        return self.sums((self.now_ns if last is None else last) - round(window_s * NS))

    def trades_of(self, window_s: float, skip_s: float = 0.0) -> np.ndarray:
        """Return the trades of a window that ended some seconds ago."""
        end = self.now_ns - round(skip_s * NS)
        return between(self.trades, end - round(window_s * NS), end)

    def book_samples(self, from_ns: int, to_ns: int) -> np.ndarray:
        """Return the known one-second samples of the book's imbalance taken in (from, to]."""
        rows = self.moment.books[self.number]
        inside = (rows[:, 0] * NS > from_ns) & (rows[:, 0] * NS <= to_ns) & ~np.isnan(rows[:, 1])
        return rows[inside][np.argsort(rows[inside, 0]), 1]

    def price(self, ticks: int) -> float:
        """Return a price in quote currency."""
        return float(self.tick * int(ticks))


def known(value) -> bool:
    """Tell whether a kernel value is there."""
    return bool(value != R.MISSING) if isinstance(value, int | np.integer) else not np.isnan(value)


def short(value: float, digits: int = 6) -> float:
    """Return a number with so many significant digits."""
    return float(f"{float(value):.{digits}g}")


def reading(value, unit: str, reason: str | None = None, **evidence) -> dict:
    """Return a value with its unit and what it rests on; without a value, with the reason."""
    if isinstance(value, float):
        value = None if np.isnan(value) else short(value)
    made = {"value": value, "unit": unit, **{name: each for name, each in evidence.items() if each is not None}}
    if value is None:
        made["reason"] = reason or "not known"
    return made
