"""The price ladder against a book of two dicts: the numbered rules, the window, and a real recording."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernel import book, depth
from engine.kernel import records as R
from engine.record.store import Session
from engine.run import Run
from engine.stream import events
from naive_book import Message, NaiveBook, session_quotes
from rows import diff, feed, snapshot, stream, timers

LEVELS, PENDING = 64, 16
MID = 1000


class Kernel:
    """The kernel's folds of one symbol's book on arrays of their own, with a small window and few rows kept for linking."""

    def __init__(self, strict: bool) -> None:
        self.strict = int(strict)
        self.core = np.zeros(1, R.CORE)
        self.ladders = np.zeros((1, 2), R.LADDER)
        for name in ("bid_ticks", "ask_ticks", "cover_low", "cover_high", "last_id"):
            self.ladders[name] = R.MISSING
        self.levels = np.zeros((1, 2, 2, book.LEVELS), np.int64)
        self.pending = np.zeros((1, book.PENDING), R.PENDING_ROW)

    def take(self, rows: np.ndarray) -> bool:
        """Fold one frame; tell whether the book changed as a whole."""
        fold = book.fold_snapshot if rows["kind"][0] == R.SNAPSHOT else book.fold_diff
        told = [fold(row, self.core[0], self.ladders, self.levels, self.pending, self.strict) for row in rows.view(np.recarray)]
        assert not any(told[:-1]), "a frame changed the book before it was whole"
        return bool(told[-1])

    @property
    def synced(self) -> bool:
        return self.core[0].book_status == R.BOOK_SYNCED

    @property
    def ladder(self) -> np.record:
        return self.ladders[0, self.core[0].active]

    def side(self, i: int) -> dict[int, int]:
        """Return the levels of a side by price."""
        lots = self.levels[0, self.core[0].active, i]
        return {int(self.ladder.origin_ticks + slot): int(lots[slot]) for slot in np.flatnonzero(lots)}


def check_tops(kernel: Kernel) -> None:
    """The best prices and counts the ladder keeps are those of its levels."""
    bids, asks = kernel.side(0), kernel.side(1)
    assert (kernel.ladder.n_bids, kernel.ladder.n_asks) == (len(bids), len(asks))
    assert kernel.ladder.bid_ticks == max(bids, default=R.MISSING) and kernel.ladder.ask_ticks == min(asks, default=R.MISSING)


def frame_of(message: Message, ns: int = 1) -> np.ndarray:
    """Return the EVENT rows of a message."""
    if message.snapshot:
        return snapshot(ns, message.levels, message.last_id)
    return diff(ns, message.levels, message.last_id, message.prev_id)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the window and the memory for linking small in the interpreted functions."""
    for module in (book, depth):
        monkeypatch.setattr(module, "LEVELS", LEVELS)
    monkeypatch.setattr(book, "PENDING", PENDING)


changes = st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(MID - 20, MID + 20), st.integers(0, 5)), max_size=60)


@given(changes)
def test_putting_and_removing_keeps_the_best_prices(made: list[tuple[int, int, int]]) -> None:
    kernel, naive = Kernel(True), ({}, {})
    book.clear(kernel.ladder, kernel.levels, 0, 0, MID)
    for side, price, lots in made:
        book.put(kernel.ladder, kernel.levels, 0, 0, side, price, lots)
        naive[side < 0][price] = lots
        check_tops(kernel)
    for i in (0, 1):
        assert kernel.side(i) == {price: lots for price, lots in naive[i].items() if lots}


# A message of a venue, then what the line made of it.
STEP = st.fixed_dictionaries({
    "levels": st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(0, 9), st.integers(0, 4)), max_size=4),
    "ids": st.integers(1, 3), "lost": st.integers(0, 9).map(lambda n: n == 0), "twice": st.integers(0, 9).map(lambda n: n == 0),
    "snapshot": st.integers(0, 5).map(lambda n: n == 0), "age": st.integers(0, 4), "back": st.integers(0, 3),
})


def messages(steps: list[dict], strict: bool) -> Iterable[Message]:
    """Yield what a client receives: diffs of a true book, some lost or doubled, and snapshots as old as up to four diffs."""
    truth, last = {(1, MID - 1): 3, (-1, MID): 3}, 100
    history = [(last, dict(truth))]
    for step in steps:
        levels = {(side, MID + side * -away - (side > 0)): lots for side, away, lots in step["levels"]}
        truth.update(levels)
        previous, last = last, last + step["ids"]
        history.append((last, dict(truth)))
        made = Message(False, last, previous, [(*key, lots) for key, lots in levels.items()])
        if not step["lost"]:
            yield made
        if step["twice"]:
            yield made
        if step["snapshot"]:
            # USD-M snapshots may carry any id; one between two messages holds what the earlier one left
            at, state = history[max(0, len(history) - 1 - step["age"])]
            yield Message(True, at + (step["back"] if strict and step["age"] == 0 else 0), None,
                          sorted(((*key, lots) for key, lots in state.items() if lots), reverse=True))


def crossed(naive: NaiveBook) -> bool:
    top = naive.best()
    return top is not None and top[0] >= top[2]


def naive_take(naive: NaiveBook, message: Message) -> bool:
    """Give the naive book a message; a crossed book is not to be trusted. Tell whether a whole frame was applied."""
    before = naive.refused
    applied = 0
    for _ in naive.take(message):
        applied += 1
        naive.synced = naive.synced and not crossed(naive)
    if message.snapshot and naive.refused == before and crossed(naive):
        naive.synced = False
    return applied > 0 or message.snapshot


@pytest.mark.parametrize("strict", [True, False], ids=["usdm", "spot"])
@settings(max_examples=300)
@given(steps=st.lists(STEP, min_size=5, max_size=14))
def test_the_ladder_follows_the_numbered_rules_as_the_naive_book_does(strict: bool, steps: list[dict]) -> None:
    kernel, naive = Kernel(strict), NaiveBook(strict)
    for message in messages(steps, strict):
        kernel.take(frame_of(message))
        naive_take(naive, message)
        # the naive book keeps every diff, the kernel a bounded number: the small memory is tested on its own
        assert kernel.core[0].pending_rows <= PENDING * 8
        assert kernel.synced == naive.synced, message
        if naive.synced:
            check_tops(kernel)
            assert kernel.side(0) == naive.bids and kernel.side(1) == naive.asks
            assert kernel.ladder.last_id == naive.last_id
            assert kernel.core[0].book_gaps == 0 or naive.gaps > 0


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "PENDING", 1 << 10)
