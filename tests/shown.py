"""The book as the kernel shows it to rules, frame by frame of a session."""

from collections.abc import Iterator

import numpy as np

from engine.kernel import records as R
from engine.record.store import Session
from engine.run import Run
from engine.stream import events

TOP = ("bid_ticks", "ask_ticks", "n_bids", "n_asks")


def shown(session: Session, symbol: str, run: Run) -> Iterator[tuple[int, int, tuple]]:
    """Yield seq, update id and top of the book after each depth message that leaves one to be trusted.

    A book that is shown although it was lost and no snapshot came since, or although nothing is connected, is an error.
    """
    rows = np.concatenate(list(events(session, {symbol: 0})))
    starts = np.flatnonzero(rows["bits"] & R.FIRST)
    down, unplugged = True, True
    market, core, ladders = (run.arrays[name] for name in ("market", "core", "ladders"))
    for start, end in zip(starts, [*starts[1:], len(rows)]):
        run.feed(rows[start:end])
        row = rows[start]
        if row["kind"] == R.FEED and row["id"] in (R.DEPTH, R.MISSING) and row["code"] in (R.LOST, R.GAP, R.STALE):
            down = True
        if row["kind"] == R.FEED and row["id"] == R.DEPTH and row["code"] in (R.LOST, R.CONNECTED):
            unplugged = row["code"] == R.LOST
        if row["kind"] == R.SNAPSHOT:
            down = False  # the kernel judges by itself whether it links; the book's content tells
        if not market["book_ok"][0]:
            continue
        assert not down, f"seq {row['seq']}: the book is shown although it was lost and no snapshot came"
        assert not unplugged, f"seq {row['seq']}: the book is shown although nothing is connected"
        if row["kind"] in (R.DEPTH, R.SNAPSHOT):
            ladder = ladders[0, core["active"][0]]
            yield int(row["seq"]), int(ladder["last_id"]), tuple(int(ladder[name]) for name in TOP)
