"""The price ladder against a book of two dicts: the numbered rules, the window, and a real recording."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.kernel import book, depth
from engine.kernel import records as R
from engine.record.store import Session
from engine.run import Pair, Run
from engine.stream import events
from naive_book import Message, NaiveBook, session_quotes
from rows import best, diff, feed, snapshot, stream

LEVELS, PENDING = 64, 256
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


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Make the window and the memory for linking small in the interpreted functions."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (book, depth):
            patch.setattr(module, "LEVELS", LEVELS)
        patch.setattr(book, "PENDING", PENDING)
        yield


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


# One message of a venue, and what the line and the REST service made of it.
rarely = st.integers(0, 9).map(lambda n: n == 0)
STEP = st.fixed_dictionaries({
    "levels": st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(0, 9), st.integers(0, 4)), max_size=4),
    "ids": st.integers(1, 3), "lost": rarely, "twice": rarely, "crossing": rarely,
    "snapshot": st.integers(0, 4).map(lambda n: n == 0), "age": st.integers(0, 4), "ahead": st.integers(0, 2),
})


def messages(steps: list[dict], strict: bool) -> Iterator[Message]:
    """Yield what a client receives: diffs of a true book, some lost or doubled, and snapshots as old as up to four diffs."""
    truth, last = {(1, MID - 1): 3, (-1, MID): 3}, 100
    history = [(last, dict(truth))]
    for number, step in enumerate(steps):
        levels = {(side, MID - side * away - (side > 0)): lots for side, away, lots in step["levels"]}
        if step["crossing"]:
            levels[1, MID + 2] = 1
        elif (1, MID + 2) in truth:
            levels[1, MID + 2] = 0
        truth.update(levels)
        previous, last = last, last + step["ids"]
        history.append((last, dict(truth)))
        made = Message(False, last, previous, [(*key, lots) for key, lots in levels.items()])
        yield from [made] * (1 - step["lost"] + step["twice"])
        if step["snapshot"]:
            at, state = history[max(0, len(history) - 1 - step["age"])]
            if strict and step["age"] == 0:     # USD-M ids have holes, and the id of a snapshot may fall into one
                at += min(step["ahead"], (steps[number + 1]["ids"] if number + 1 < len(steps) else 1) - 1)
            yield Message(True, at, None, [(*key, lots) for key, lots in state.items() if lots])


class Oracle(NaiveBook):
    """The naive book that trusts no crossed book: a frame that crosses breaks it, a snapshot that crosses is refused."""

    def crossed(self) -> bool:
        top = self.best()
        return top is not None and top[0] >= top[2]

    def receive(self, message: Message) -> None:
        if not message.snapshot:
            for _ in self.take(message):
                self.synced = not self.crossed()
            return
        trial = Oracle(self.strict)
        trial._set(message.levels)
        trial.last_id = message.last_id
        for earlier in self.diffs:
            list(trial._apply(earlier))
        if trial.gaps or trial.crossed():
            self.refused += 1
            return
        self.bids, self.asks, self.last_id, self.chained, self.synced = trial.bids, trial.asks, trial.last_id, trial.chained, True


@pytest.mark.parametrize("strict", [True, False], ids=["usdm", "spot"])
@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, min_size=5, max_size=14))
def test_the_ladder_follows_the_numbered_rules_as_the_naive_book_does(strict: bool, steps: list[dict]) -> None:
    kernel, naive = Kernel(strict), Oracle(strict)
    for message in messages(steps, strict):
        changed = kernel.take(frame_of(message))
        naive.receive(message)
        assert kernel.synced == naive.synced, message
        assert kernel.core[0].snapshots_refused == naive.refused and kernel.core[0].book_gaps == naive.gaps
        assert kernel.synced or not changed
        if naive.synced:
            check_tops(kernel)
            assert kernel.side(0) == naive.bids and kernel.side(1) == naive.asks
            assert kernel.ladder.last_id == naive.last_id


def three_diffs(kernel: Kernel) -> None:
    """Give a kernel a snapshot 100 and the diffs 101..103."""
    kernel.take(snapshot(1, [(1, 999, 5), (-1, 1001, 5)], 100))
    for last in (101, 102, 103):
        assert kernel.take(diff(2, [(1, 990, last)], last, last - 1))


def test_usdm_wants_pu_to_be_the_last_u_and_spot_wants_no_id_left_out() -> None:
    for strict, prev_id, follows in ((True, 102, False), (True, 104, False), (True, 103, True),
                                     (False, 102, True), (False, 104, False), (False, 103, True)):
        kernel = Kernel(strict)
        three_diffs(kernel)
        assert kernel.take(diff(3, [(1, 991, 1)], 106, prev_id)) == follows == kernel.synced, (strict, prev_id)


def test_the_first_diff_after_a_usdm_snapshot_may_begin_before_it_but_not_after() -> None:
    for prev_id, follows in ((90, True), (100, True), (101, False)):
        kernel = Kernel(True)
        kernel.take(snapshot(1, [(1, 999, 5), (-1, 1001, 5)], 100))
        assert kernel.take(diff(2, [(1, 990, 1)], 110, prev_id)) == follows == kernel.synced


def test_a_usdm_diff_that_ends_at_the_snapshot_starts_the_chain() -> None:
    for before in (True, False):
        kernel = Kernel(True)
        parts = [diff(1, [(1, 990, 1)], 100, 95), snapshot(1, [(1, 999, 5), (1, 990, 1), (-1, 1001, 5)], 100)]
        for rows in parts if before else reversed(parts):
            kernel.take(rows)
        assert kernel.synced and not kernel.take(diff(2, [(1, 991, 1)], 104, 98)) and not kernel.synced, before


def test_an_old_frame_changes_nothing_and_breaks_nothing() -> None:
    for strict in (True, False):
        kernel = Kernel(strict)
        three_diffs(kernel)
        assert not kernel.take(diff(3, [(1, 999, 0)], 102, 101)) and kernel.synced and kernel.core[0].book_old == 1
        assert kernel.side(0) == {999: 5, 990: 103}


def test_a_snapshot_is_joined_with_the_diffs_that_overtook_it() -> None:
    kernel = Kernel(True)
    for last in (99, 101, 102):
        assert not kernel.take(diff(1, [(1, 990, last)], last, {99: 90, 101: 99, 102: 101}[last]))
    assert kernel.take(snapshot(2, [(1, 999, 5), (-1, 1001, 5)], 100)) and kernel.synced
    assert kernel.side(0) == {999: 5, 990: 102} and kernel.ladder.last_id == 102


def test_a_snapshot_too_old_for_the_kept_diffs_is_refused_and_the_book_stays() -> None:
    kernel = Kernel(True)
    three_diffs(kernel)
    assert not kernel.take(snapshot(3, [(1, 998, 7), (-1, 1001, 7)], 95))     # 95..100 are missing
    assert kernel.synced and kernel.side(0) == {999: 5, 990: 103} and kernel.core[0].snapshots_refused == 1
    assert kernel.take(diff(4, [(1, 990, 1)], 104, 103))


def test_diffs_pushed_out_of_the_memory_are_missed_not_skipped() -> None:
    for kept in (PENDING, PENDING + 1, PENDING + 2):
        kernel = Kernel(True)
        rows = [(1, 980 + n % 10, 1) for n in range(kept - 1)]
        kernel.take(diff(1, rows, 101, 100))          # its first row is overwritten when kept exceeds the memory
        kernel.take(diff(1, [(1, 970, 1)], 102, 101))
        assert kernel.take(snapshot(2, [(1, 999, 5), (-1, 1001, 5)], 100)) == (kept == PENDING) == kernel.synced, kept
        assert kernel.take(snapshot(3, [(1, 999, 5), (-1, 1001, 5)], 101)) and kernel.side(0) == {999: 5, 970: 1}


def test_a_crossed_or_locked_book_is_broken_until_a_snapshot() -> None:
    for bid in (1001, 1002):
        kernel = Kernel(True)
        three_diffs(kernel)
        assert not kernel.take(diff(3, [(1, bid, 1)], 104, 103))
        assert not kernel.synced and kernel.core[0].book_crossed == 1
        assert not kernel.take(diff(4, [(1, bid, 0)], 105, 104)) and not kernel.synced
        assert kernel.take(snapshot(5, [(1, 999, 5), (-1, 1001, 5)], 105)) and kernel.synced


def test_a_crossed_snapshot_is_refused_even_without_an_id() -> None:
    for last_id in (100, None):
        kernel = Kernel(True)
        assert not kernel.take(snapshot(1, [(1, 1001, 5), (-1, 1001, 5)], last_id)) and not kernel.synced


def test_both_sides_of_a_frame_are_applied_before_the_top_is_looked_at() -> None:
    kernel = Kernel(True)
    three_diffs(kernel)
    assert kernel.take(diff(3, [(1, 1005, 1), (-1, 1001, 0), (-1, 1006, 1)], 104, 103))
    assert (kernel.ladder.bid_ticks, kernel.ladder.ask_ticks) == (1005, 1006)


def test_top_n_frames_and_empty_snapshots_change_nothing() -> None:
    kernel = Kernel(True)
    three_diffs(kernel)
    before = kernel.pending.copy()
    assert not kernel.take(diff(3, [(1, 1000, 1)], 104, 103, bits=R.PARTIAL_DEPTH))
    assert not kernel.take(snapshot(3, [], 104))
    assert kernel.synced and kernel.side(0) == {999: 5, 990: 103} and (kernel.pending == before).all()


def test_a_message_without_levels_moves_the_chain_on() -> None:
    kernel = Kernel(True)
    three_diffs(kernel)
    assert kernel.take(diff(3, [], 104, 103)) and kernel.take(diff(4, [(1, 990, 1)], 105, 104)) and kernel.synced


@pytest.mark.parametrize("strict", [True, False])
def test_after_ids_that_begin_anew_book_and_touch_come_back(linked: Callable[..., Run], strict: bool) -> None:
    """The hole is marked; what was kept of the old ids stands in the way of no snapshot and of no best quote."""
    run = linked(pairs=[Pair("BTCUSDT", "0.10", "0.001", "0.01", strict)])
    sides = [(1, 999, 3), (-1, 1001, 4)]
    run.feed(stream(snapshot(1, sides, 900_000), *(diff(2 + n, sides, 900_001 + n, 900_000 + n) for n in range(5)),
                    best(10, 999, 1001, 3, 4, 900_005)))
    core, market = run.arrays["core"][0], run.arrays["market"][0]
    assert core.book_status == R.BOOK_SYNCED and market.bid_ticks == 999
    run.feed(stream(feed(20, R.GAP, R.DEPTH), diff(21, sides, 11, 10), diff(22, [(1, 998, 7)], 12, 11)))
    run.feed(stream(best(23, 998, 1001, 7, 4, 12), snapshot(24, sides, 11), diff(25, [(1, 999, 0)], 13, 12)))
    assert core.book_status == R.BOOK_SYNCED and (market.bid_ticks, market.bid_lots) == (998, 7)
    assert top_of(run) == (998, 7, 1001, 4)


walks = st.lists(st.tuples(st.integers(-14, 14), st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(1, 30), st.integers(0, 3)),
                                                           max_size=6)), min_size=3, max_size=25)


@settings(max_examples=200, deadline=None)
@example([(step, []) for step in (-14, -14, 14, 14)])
@example([(step, []) for step in (14, 14, -14, -14)])
@given(walks)
def test_what_the_moving_window_claims_to_know_is_true(walk: list[tuple]) -> None:
    kernel, truth = Kernel(False), NaiveBook(False)
    mid = MID
    first = [(1, mid - n, 2) for n in range(1, 41)] + [(-1, mid + n, 2) for n in range(41)]
    for message in [Message(True, 100, None, first)]:
        list(truth.take(message))
        kernel.take(frame_of(message))
    for number, (move, levels) in enumerate(walk):
        mid += move
        made = {(side, mid + (-away if side > 0 else away)): lots for side, away, lots in levels}
        made |= {(1, price): 0 for price in truth.bids if price >= mid} | {(-1, price): 0 for price in truth.asks if price <= mid}
        made |= {(1, mid - 1): 1, (-1, mid + 1): 1}
        message = Message(False, 101 + number, 100 + number, [(*key, lots) for key, lots in made.items()])
        list(truth.take(message))
        assert kernel.take(frame_of(message)) and kernel.synced
        check_tops(kernel)
        bid, _, ask, _ = truth.best()
        assert (kernel.ladder.bid_ticks, kernel.ladder.ask_ticks) == (bid, ask)
        for i, own, way in ((0, truth.bids, -1), (1, truth.asks, 1)):
            touch = kernel.side(i)
            start = bid if i == 0 else ask
            for away in range(depth.known_ticks(kernel.ladder, i)):
                price = start + way * away
                assert touch.get(price, 0) == own.get(price, 0), (number, i, price)


def depth_frames(session: Session) -> list[np.ndarray]:
    """Return the depth rows of a session frame by frame."""
    return [rows for chunk in events(session, {"BTCUSDT": 0}, ["depth"])
            for rows in np.split(chunk, np.flatnonzero(chunk["bits"] & R.FIRST)[1:])]


def top_of(run: Run) -> tuple[int, int, int, int]:
    """Return bid price and lots, ask price and lots of the book, which the market must show too."""
    ladder = run.arrays["ladders"][0, run.arrays["core"][0].active]
    sizes = [int(run.arrays["levels"][0, run.arrays["core"][0].active, i, price - ladder.origin_ticks])
             for i, price in enumerate((ladder.bid_ticks, ladder.ask_ticks))]
    seen = run.arrays["market"][0]
    top = int(ladder.bid_ticks), sizes[0], int(ladder.ask_ticks), sizes[1]
    assert top == (seen.bid_ticks, seen.bid_lots, seen.ask_ticks, seen.ask_lots)
    return top


def test_the_kernels_book_is_the_venues_own_at_every_update_of_a_recording(btc_session: Session, linked: Callable[..., Run]) -> None:
    quotes = session_quotes(btc_session, "BTCUSDT")
    ids = np.array(sorted(quotes))
    frames = depth_frames(btc_session)
    place = next(n for n, rows in enumerate(frames) if rows["kind"][0] == R.SNAPSHOT)
    needed = next(n for n, rows in enumerate(frames) if rows["kind"][0] == R.DEPTH and rows["id"][0] >= frames[place]["id"][0])
    assert needed < place, "the recording's snapshot comes after the diff it needs"
    early = frames[:needed] + [frames[place]] + frames[needed:place] + frames[place + 1:]
    compared, equal, last = {}, {}, {}
    for name, order in (("as recorded", frames), ("snapshot first", early)):
        run = linked()
        core = run.arrays["core"][0]
        compared[name] = equal[name] = 0
        for rows in order:
            before = (int(core.book_frames), int(core.active))
            run.feed(rows)
            if (int(core.book_frames), int(core.active)) == before:
                continue
            at = np.searchsorted(ids, run.arrays["ladders"][0, core.active].last_id, "right")
            if at:
                compared[name] += rows["kind"][0] == R.DEPTH or name == "as recorded"
                equal[name] += top_of(run) in quotes[ids[at - 1]] and (rows["kind"][0] == R.DEPTH or name == "as recorded")
        assert core.book_gaps == core.book_crossed == core.snapshots_refused == 0 and core.book_status == R.BOOK_SYNCED
        last[name] = top_of(run)
    # every diff is judged when the snapshot comes first; those joined with it are judged as one in the order of the recording
    joined = place - needed
    assert compared["snapshot first"] == equal["snapshot first"] == 6_547
    assert compared["as recorded"] == equal["as recorded"] == 6_547 - (joined - 1)
    assert last["as recorded"] == last["snapshot first"]
