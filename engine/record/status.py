"""What a recording shows of itself, on the screen and as JSON lines."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import clock
from engine.record.watch import Book, Stream

if TYPE_CHECKING:
    from engine.record.recorder import Recorder

COUNTED = ("frames kept duplicates holes refilled not_refilled snapshots refused_snapshots connections losses failures "
           "last_failure stale").split()


@dataclass
class Counters:
    """What the recorder has done, for the screen."""

    frames: int = 0            # that reached it
    kept: int = 0              # and were journaled
    duplicates: int = 0        # and were left out
    holes: int = 0
    refilled: int = 0          # trades
    not_refilled: int = 0      # holes given up
    snapshots: int = 0
    refused_snapshots: int = 0
    connections: int = 0
    losses: int = 0
    failures: int = 0
    last_failure: str = ""
    stale: int = 0
    slowest_take_ms: float = 0.0
    offset_ms: float | None = None     # venue clock less ours
    clock_put_back_s: float = 0.0      # by how much this machine's clock was put back, in all


def status_of(recorder: "Recorder") -> dict:
    """Return the state of a recorder; rates are over the whole recording, 0 for a stream from which nothing comes."""
    now_s, counters, journal, watch = clock.monotonic_s(), recorder.counters, recorder.journal, recorder.watch
    span_s = max(1e-9, now_s - recorder.began_s)
    return {"time_ns": clock.now_ns(), "seconds": round(span_s, 1),
            **{name: getattr(counters, name) for name in COUNTED},
            "slowest_take_ms": round(counters.slowest_take_ms, 2), "clock_offset_ms": counters.offset_ms,
            "clock_put_back_s": round(counters.clock_put_back_s, 3),
            "malformed": watch.malformed, "unknown": watch.unknown, "last_seq": journal.last_seq,
            "not_synced": journal.last_seq - journal.synced_seq, "journal_bytes": journal.bytes,
            "books": {book.symbol: _book(book) for book in watch.books.values()},
            "streams": {stream.name: _stream(stream, now_s, span_s) for stream in watch.streams.values()}}


def _book(book: Book) -> str:
    if book.synced:
        return "synced"
    return "waiting for a snapshot" if book.snapshot_id is None else "linked"


def _stream(stream: Stream, now_s: float, span_s: float) -> dict:
    state = "not connected" if not stream.last_s else "silent" if stream.silent else "ok" if stream.heard else "waiting"
    return {"frames": stream.frames, "per_s": round(stream.frames / span_s, 2) if state == "ok" else 0.0, "duplicates": stream.duplicates,
            "late": stream.late, "holes": stream.holes, "stale": stream.stale,
            "age_s": round(now_s - stream.last_s, 3) if stream.last_s else None,
            "state": state}
