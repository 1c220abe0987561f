"""Resting depth: sums by distance, voids, thin zones and walls where they were planted, and nothing where the book is not known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernel import depth
from engine.kernel import records as R
from engine.kernel.market import MARKET
from engine.kernel.tape import bucket_floor, bucket_of
from engine.run import Pair, Run
from rows import MS, S, best, diff, feed, snapshot, stream, timer, timers

T0 = 1_000 * S
BID, ASK = 600_000, 600_001
WIDTH = 30                     # half a basis point of 60,000.00 in ticks of 0.10
BP = WIDTH / (BID + ASK) * 20_000
ABSENT = ("depth_5bps_lots", "depth_10bps_lots", "depth_25bps_lots", "depth_100bps_lots", "void_near_bps", "void_far_bps", "void_deficit",
          "void_cost_lots", "thin_near_bps", "thin_far_bps", "wall_near_bps", "wall_lots")


class Book:
    """A live market of one symbol: a book that a test changes, kept fresh by a diff a second."""

    def __init__(self, run: Run, deep_ticks: int = 7_000, step: int = 10, lots: int = 10) -> None:
        self.run, self.now, self.last_id = run, T0, 100
        self.market = run.arrays["market"][0]
        self.sides = ({BID - away: lots for away in range(0, deep_ticks, step)}, {ASK + away: lots for away in range(0, deep_ticks, step)})
        levels = [(1 if i == 0 else -1, price, held) for i in (0, 1) for price, held in self.sides[i].items()]
        run.feed(stream(snapshot(self.now, levels, self.last_id), timer(self.now)))

    def change(self, *changes: tuple[int, int, int]) -> None:
        """Apply a diff now."""
        for side, price, lots in changes:
            self.sides[side < 0][price] = lots
            if not lots:
                del self.sides[side < 0][price]
        self.last_id += 1
        self.run.feed(diff(self.now + 1, list(changes), self.last_id, self.last_id - 1))

    def clear(self, i: int, first: int, end: int) -> dict[int, int]:
        """Take away what rests in the bins from `first` to before `end`, the touch left in place; return what it was."""
        touch, way, side = (max(self.sides[0]), -1, 1) if i == 0 else (min(self.sides[1]), 1, -1)
        gone = {price: lots for price, lots in self.sides[i].items()
                if first * WIDTH <= way * (price - touch) < end * WIDTH and price != touch}
        self.change(*[(side, price, 0) for price in gone])
        return gone

    def wait(self, ns: int) -> None:
        """Let time pass in steps of 100 ms; the book says once a second that it is alive."""
        for _ in range(ns // (100 * MS)):
            self.now += 100 * MS
            self.run.feed(timer(self.now))
            if self.now % S == 0:
                self.change()

    def lots(self, i: int, ticks: int) -> int:
        """Return what rests less than so many ticks behind the touch."""
        touch = max(self.sides[0]) if i == 0 else min(self.sides[1])
        return sum(lots for price, lots in self.sides[i].items() if abs(price - touch) < ticks)

    def side(self, i: int) -> np.record:
        return self.market.bid if i == 0 else self.market.ask


@pytest.fixture
def book(linked: Callable[..., Run]) -> Book:
    """Return a book whose usual depth is known."""
    made = Book(linked())
    made.wait(61 * S)
    return made


def absent(side: np.record) -> bool:
    return all(math.isnan(side[name]) for name in ABSENT) and side.void_id == side.thin_id == side.wall_age_ns == R.MISSING


BOTH = pytest.mark.parametrize("i", [0, 1], ids=["bids", "asks"])


@BOTH
def test_depth_is_summed_by_distance_and_unknown_beyond_the_recorded(linked: Callable[..., Run], i: int) -> None:
    for deep, known in ((7_000, (5, 10, 25, 100)), (6_001, (5, 10, 25, 100)), (5_500, (5, 10, 25)), (1_400, (5, 10)), (590, (5,)),
                        (200, ())):
        made = Book(linked(), deep)
        rng = np.random.default_rng(deep)
        made.change(*[(side, price, int(rng.integers(1, 99))) for side in (1, -1) for price in list(made.sides[side < 0])])
        made.wait(S)
        for bps in (5, 10, 25, 100):
            found = made.side(i)[f"depth_{bps}bps_lots"]
            assert found == made.lots(i, bps * 60) if bps in known else math.isnan(found), (deep, bps)


@pytest.mark.parametrize("mid", [1_000, 8_500, 29_000, 99_000])
def test_distances_are_kept_where_a_tick_is_coarse(linked: Callable[..., Run], mid: int) -> None:
    run = linked(pairs=[Pair("LTCUSDT", "0.01", "0.001", "0.01", False)])
    levels = [(side, mid + (-n if side > 0 else n + 1), 1) for n in range(max(20, mid // 50)) for side in (1, -1)]
    run.feed(stream(snapshot(T0, levels, 1), timer(T0 + S)))
    for side in (run.arrays["market"][0].bid, run.arrays["market"][0].ask):
        for bps in (5, 10, 25, 100):       # one lot at each tick: the sum is the distance, and the touch is always inside
            assert side[f"depth_{bps}bps_lots"] == max(1, int(bps * (2 * mid + 1) / 20_000)), bps


@BOTH
def test_a_void_is_claimed_where_it_was_planted_once_it_lasts(book: Book, i: int) -> None:
    side, other = book.side(i), book.side(1 - i)
    gone = book.clear(i, 4, 9)
    cost = book.lots(i, 4 * WIDTH)
    for _ in range(5):                     # seen first at the next timer, half a second old at the sixth
        book.wait(100 * MS)
        assert side.void_id == R.MISSING
        assert all(math.isnan(side[f"void_{name}"]) for name in ("near_bps", "far_bps", "deficit", "cost_lots"))
    book.wait(100 * MS)
    assert side.void_id == 1 and side.void_age_ns == 500 * MS
    assert math.isclose(side.void_near_bps, 4 * BP) and math.isclose(side.void_far_bps, 9 * BP)
    assert side.void_cost_lots == cost and side.void_deficit == 1.0
    assert other.void_id == R.MISSING
    book.wait(2 * S)
    assert side.void_id == 1 and side.void_age_ns == 2_500 * MS
    book.change(*[(1 - 2 * i, price, lots) for price, lots in gone.items()])
    book.wait(100 * MS)
    assert side.void_id == R.MISSING and math.isnan(side.void_near_bps)
    book.clear(i, 12, 14)
    book.wait(S)
    assert side.void_id == 2 and math.isclose(side.void_near_bps, 12 * BP)


@BOTH
def test_a_void_that_ends_before_half_a_second_is_never_claimed(book: Book, i: int) -> None:
    for _ in range(3):
        gone = book.clear(i, 4, 9)
        book.wait(500 * MS)
        assert book.side(i).void_id == R.MISSING
        book.change(*[(1 - 2 * i, price, lots) for price, lots in gone.items()])
        book.wait(100 * MS)
    assert book.side(i).void_id == R.MISSING


@BOTH
def test_the_bin_at_the_touch_is_no_void(book: Book, i: int) -> None:
    book.clear(i, 0, 1)
    book.wait(2 * S)
    assert book.side(i).void_id == R.MISSING and math.isnan(book.side(i).thin_near_bps)
    book.clear(i, 1, 3)
    book.wait(S)
    assert math.isclose(book.side(i).void_near_bps, BP) and math.isclose(book.side(i).void_far_bps, 3 * BP)
    assert math.isclose(book.side(i).thin_near_bps, BP)


@BOTH
def test_nothing_is_claimed_beyond_recorded_depth(linked: Callable[..., Run], i: int) -> None:
    made = Book(linked(), deep_ticks=1_500)
    made.wait(61 * S)
    assert made.run.arrays["usual"][0, i, 39, R.BUCKETS] >= 60, "the farthest bin has a usual depth"
    # price moves 900 ticks towards the end of what was recorded: 600 ticks, 20 bins, are left
    side, way = (1, -1) if i == 0 else (-1, 1)
    touch = (BID if i == 0 else ASK) + way * 900
    made.change(*[(side, price, 0) for price in list(made.sides[i]) if way * (price - touch) < 0],
                *[(-side, price, 10) for price in range(BID - 890, BID, 10) if i == 0],
                *[(-side, price, 10) for price in range(ASK + 10, ASK + 891, 10) if i == 1])
    made.wait(2 * S)
    found = made.side(i)
    assert made.market.book_ok and found.void_id == R.MISSING and math.isnan(found.thin_near_bps) and math.isnan(found.depth_25bps_lots)
    assert found.depth_5bps_lots == made.lots(i, 300)
    made.clear(i, 17, 40)                  # the last bins inside coverage are a void, and it ends where knowledge ends
    made.wait(S)
    assert math.isclose(found.void_near_bps, 17 * WIDTH / made.market.mid2 * 20_000)
    assert found.void_far_bps <= 20 * WIDTH / made.market.mid2 * 20_000 + 1e-9


def test_a_void_is_not_claimed_before_the_usual_depth_is_known(linked: Callable[..., Run]) -> None:
    made = Book(linked())
    made.wait(50 * S)
    made.clear(0, 4, 9)
    made.wait(5 * S)
    assert made.side(0).void_id == R.MISSING and math.isclose(made.side(0).thin_near_bps, 4 * BP)
    made.wait(6 * S)
    assert made.side(0).void_id == 1


@BOTH
def test_thin_is_two_bins_under_a_quarter_of_the_median_bin_now(book: Book, i: int) -> None:
    side, way = book.side(i), -1 if i == 0 else 1
    touch = BID if i == 0 else ASK
    book.clear(i, 6, 7)
    book.wait(100 * MS)
    assert math.isnan(side.thin_near_bps), "one bin"
    book.clear(i, 7, 8)
    book.wait(100 * MS)
    assert math.isclose(side.thin_near_bps, 6 * BP) and math.isclose(side.thin_far_bps, 8 * BP) and side.thin_id == 1
    for lots, thin in ((7, True), (8, False)):     # a quarter of 30 lots is 7.5
        book.change((1 - 2 * i, touch + way * 6 * WIDTH, lots), (1 - 2 * i, touch + way * 7 * WIDTH, lots))
        book.wait(100 * MS)
        assert math.isnan(side.thin_near_bps) != thin
    book.clear(i, 25, 30)
    book.wait(100 * MS)
    assert math.isnan(side.thin_near_bps), "beyond 10 bps"


@BOTH
def test_a_wall_is_shown_after_five_seconds_when_it_is_worth_something(book: Book, i: int) -> None:
    side, own, way = book.side(i), 1 - 2 * i, -1 if i == 0 else 1
    touch = BID if i == 0 else ASK
    book.change((own, touch + way * 12 * WIDTH, 2_000))        # many times the usual, $120,000
    book.change((own, touch, 90_000))                          # the touch is no wall
    book.wait(6 * S)
    assert math.isnan(side.wall_near_bps)
    book.change((own, touch + way * 10 * WIDTH, 9_000))        # $540,000
    book.wait(5 * S)
    assert math.isnan(side.wall_near_bps) and math.isnan(side.wall_lots) and side.wall_age_ns == R.MISSING
    book.wait(100 * MS)
    assert math.isclose(side.wall_near_bps, 10 * BP) and side.wall_lots == 9_020 and side.wall_age_ns == 5 * S
    book.change((own, touch + way * 10 * WIDTH, 10))
    book.wait(100 * MS)
    assert math.isnan(side.wall_near_bps)
    book.change((own, touch + way * 10 * WIDTH, 9_000))
    book.wait(3 * S)
    assert math.isnan(side.wall_near_bps), "pulled and put back, it is a new one"


@pytest.mark.parametrize("loss", ["gap in the ids", "crossed", "lost", "silence", "no touch"])
def test_no_depth_feature_outlives_the_book(book: Book, loss: str) -> None:
    book.clear(0, 4, 9)
    book.clear(1, 4, 9)
    for own, price in ((1, BID - 600), (-1, ASK + 600)):
        book.change((own, price, 9_000))
    book.wait(6 * S)
    shown = [name for i in (0, 1) for name in ABSENT if math.isnan(book.side(i)[name])]
    assert shown == [] and book.market.book_ok and not math.isnan(book.market.top5_imbalance)
    if loss == "gap in the ids":
        book.run.feed(diff(book.now + 1, [(1, BID, 5)], book.last_id + 9, book.last_id + 5))
    elif loss == "crossed":
        book.run.feed(diff(book.now + 1, [(1, ASK + 1, 5)], book.last_id + 1, book.last_id))
    elif loss == "lost":
        book.run.feed(feed(book.now + 1, R.LOST, R.DEPTH))
    elif loss == "silence":                # trades and best quotes go on, the book does not
        book.run.feed(stream(timers(book.now + 100 * MS, book.now + 11 * S, 100 * MS),
                             *[best(book.now + n * S, BID, ASK, update_id=book.last_id + n) for n in range(1, 11)]))
    else:
        book.run.feed(stream(feed(book.now + 1, R.LOST, R.BEST), timer(book.now + 2)))
    assert not book.market.book_ok and math.isnan(book.market.top5_imbalance)
    assert absent(book.side(0)) and absent(book.side(1))


def test_five_levels_lean_as_they_do(book: Book) -> None:
    book.change((1, BID, 1), (1, BID - 10, 2), (1, BID - 15, 3), (1, BID - 20, 4), (-1, ASK, 50), (-1, ASK + 3, 7))
    book.wait(100 * MS)
    bids, asks = (sum(held for _, held in sorted(side.items(), key=lambda level: abs(level[0] - BID))[:5]) for side in book.sides)
    assert book.market.top5_imbalance == (bids - asks) / (bids + asks)
    book.change(*[(-1, price, 0) for price in sorted(book.sides[1])[4:]])
    book.wait(100 * MS)
    assert math.isnan(book.market.top5_imbalance), "four levels are not five"


class Reference:
    """The arrays of the usual depth of one side."""

    def __init__(self) -> None:
        self.core = np.zeros(1, R.CORE).view(np.recarray)[0]
        self.bins = np.zeros((1, 2, R.BINS), np.int64)
        self.usual = np.zeros((1, 2, R.BINS, R.BUCKETS + 1), np.int64)
        self.history = np.zeros((1, 2, R.REFERENCE, R.BINS), np.uint8)
        self.below = np.zeros((1, 2, R.BINS), np.int64)
        self.medians = np.zeros((1, 2, R.BINS), np.int64)

    def take(self, lots: list[int], known: int) -> None:
        self.bins[0, 0, :len(lots)] = lots
        depth.fold_reference(self.core, self.bins, known, self.usual, 0, 0, self.history, self.below, self.medians)
        self.core.reference_count += 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from((0, 1, 3, 4, 50, 51, 10**6, 2**40)), min_size=3, max_size=3), st.integers(0, 3)),
                min_size=1, max_size=60))
def test_the_usual_depth_is_the_median_of_what_was_seen_lately(samples: list[tuple[list[int], int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth, "REFERENCE", 20)
        patch.setattr(depth, "BINS", 3)
        made = Reference()
        for n, (lots, known) in enumerate(samples):
            made.take(lots, known)
            for j in range(3):
                seen = sorted(bucket_of(row[j]) for row, count in samples[max(0, n - 19):n + 1] if j < count)
                assert made.usual[0, 0, j, R.BUCKETS] == len(seen)
                if seen:
                    assert made.medians[0, 0, j] == seen[len(seen) // 2]
                    assert made.below[0, 0, j] == sum(bucket < seen[len(seen) // 2] for bucket in seen)


def test_the_usual_depth_is_that_of_the_last_half_hour(linked: Callable[..., Run]) -> None:
    rng = np.random.default_rng(4)
    run, bins, seconds = linked(), 6, 2_500
    deep = 200 * WIDTH
    run.feed(stream(snapshot(T0, [(1, BID, 1), (1, BID - deep, 1), (-1, ASK, 1), (-1, ASK + deep, 1)], 100), timer(T0)))
    lots = (rng.pareto(1.0, (seconds, bins)) * 50 * np.linspace(3, 0.3, seconds)[:, None]).astype(np.int64) + 1
    parts = []
    for n in range(seconds):
        parts += [diff(T0 + n * S + 1, [(1, BID - j * WIDTH - 5, int(lots[n, j])) for j in range(bins)], 101 + n, 100 + n),
                  timer(T0 + (n + 1) * S)]
    run.feed(stream(*parts))
    seen = lots + np.eye(1, bins, dtype=np.int64)          # the touch rests in the first bin
    wanted = np.sort(seen[-R.REFERENCE:], axis=0)[R.REFERENCE // 2]
    assert R.REFERENCE == 1_800 and run.arrays["core"][0].reference_count == seconds + 1
    for j in range(bins):
        median = bucket_floor(run.arrays["medians"][0, 0, j])
        assert median <= wanted[j] < max(median * 1.26, median + 1), j
    assert (wanted < np.sort(seen, axis=0)[seconds // 2]).all(), "the whole past would give another answer"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from((0, 1, 20, 40)), st.booleans()), min_size=3, max_size=R.BINS),
       st.sampled_from((math.nan, 0.1, 3.0, 8.0)), st.integers(1, 30))
def test_a_void_is_the_nearest_run_that_lacks_depth(made: list[tuple[int, int, bool]], sigma_bps: float, width: int) -> None:
    market = np.zeros(1, MARKET).view(np.recarray)[0]
    market.mid2, market.sigma_bps, market.now_ns = BID + ASK, sigma_bps, 10 * S
    side = market.bid
    side.void_price, side.void_since_ns = BID, 0           # one is being tracked
    reference = Reference()
    reference.core.bin_ticks = width
    count = len(made)
    for j, (lots, typical, known) in enumerate(made):
        reference.bins[0, 0, j], reference.medians[0, 0, j] = lots, bucket_of(typical)
        reference.usual[0, 0, j, R.BUCKETS] = 60 if known else 59
    ladder = np.zeros(1, R.LADDER).view(np.recarray)[0]
    ladder.bid_ticks = BID
    depth.find_void(market, side, reference.core, ladder, reference.bins, count, reference.usual, reference.medians, 0, 0)

    def lacks(j: int) -> bool:
        lots, typical, known = made[j]
        return known and typical > 0 and lots <= 0.5 * bucket_floor(bucket_of(typical))
    found, j = None, 1
    while j < count and found is None:
        end = j
        while end < count and lacks(end):
            end += 1
        held, usual = sum(made[k][0] for k in range(j, end)), sum(bucket_floor(bucket_of(made[k][1])) for k in range(j, end))
        enough = 3.0 if math.isnan(sigma_bps) else max(3.0, 0.5 * sigma_bps * math.sqrt(10) * (BID + ASK) / 20_000)
        if end > j and held <= 0.25 * usual and (end - j) * width >= enough:
            found = j, end, 1 - held / usual
        j = end + 1
    if found is None:
        assert side.void_price == R.MISSING
    else:
        assert side.void_price == BID - found[0] * width
        if abs(found[0] * width) <= 2 * width:             # the one that was tracked, so old enough to be claimed
            assert math.isclose(side.void_far_bps, found[1] * width * 20_000 / (BID + ASK)) and side.void_deficit == found[2]
