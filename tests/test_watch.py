"""The watch: which frames are kept, which holes are named, when a stream is silent, and when a snapshot links."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.record.watch import BACKWARD, DEPTH, DROP, HELD_S, HOLD, KEEP, MARKS, TRADES, Book, Watch, kind_of

NAMES = ["btcusdt@trade", "btcusdt@depth@100ms", "btcusdt@bookTicker", "btcusdt@markPrice@1s", "btcusdt@forceOrder"]
TRADE, DIFF, BEST, MARK, FORCE = NAMES


def frame(stream: str, **data) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def trade(number: int) -> bytes:
    return frame(TRADE, e="trade", E=1, T=1, s="BTCUSDT", t=number, p="1.0", q="2.0", X="MARKET", m=True)


def diff(before: int, last: int) -> bytes:
    return frame(
        DIFF, e="depthUpdate", E=1, T=1, s="BTCUSDT", U=before + 1, u=last, pu=before, b=[["1.0", "2.0"]], a=[]
    )


def spot_diff(first: int, last: int) -> bytes:
    return frame(DIFF, e="depthUpdate", E=1, s="BTCUSDT", U=first, u=last, b=[["1.0", "2.0"]], a=[])


def best(number: int) -> bytes:
    return frame(BEST, u=number, s="BTCUSDT", b="1.0", B="1", a="1.1", A="1")


def mark(at_ms: int) -> bytes:
    return frame(MARK, e="markPriceUpdate", E=at_ms, s="BTCUSDT", p="1.0", T=9)


def watch(strict: bool = True, **silent_s: float) -> Watch:
    return Watch(NAMES, strict, silent_s)


def fed(
    what: Watch, *frames: bytes, newest: bool | None = None, at_s: float = 1.0
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the verdicts and the holes."""
    verdicts, holes = [], []
    for each in frames:
        _, found, verdict = what.judge(each, at_s, newest)
        verdicts.append(verdict)
        holes += [(hole.from_id, hole.to_id) for hole in found]
    return verdicts, holes


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a@trade", TRADES),
        ("a@aggTrade", TRADES),
        ("a@depth", DEPTH),
        ("a@depth@0ms", DEPTH),
        ("a@depth20@100ms", "other"),
        ("a@bookTicker", "best"),
        ("a@markPrice", MARKS),
        ("a@forceOrder", "other"),
    ],
)
def test_the_name_tells_the_kind(name, kind):
    assert kind_of(name) == kind


def test_trades_that_follow_each_other_are_kept_and_a_hole_is_named():
    assert fed(watch(), trade(5), trade(6), trade(10), trade(11)) == ([KEEP] * 4, [(6, 10)])


def test_a_double_is_dropped_and_a_late_one_is_kept_once():
    verdicts, holes = fed(
        watch(), trade(5), trade(5), trade(9), trade(7), trade(7), trade(6), trade(8), trade(8), trade(4)
    )
    assert verdicts == [KEEP, DROP, KEEP, KEEP, DROP, KEEP, KEEP, DROP, DROP] and holes == [(5, 9)]


def test_usdm_diffs_are_chained_by_pu_and_spot_by_first_id():
    assert fed(watch(), diff(100, 105), diff(105, 130), diff(140, 150))[1] == [(130, 150)]
    assert fed(watch(), diff(100, 105), diff(103, 130))[1] == [(105, 130)]  # pu must be equal
    assert fed(watch(False), spot_diff(1, 5), spot_diff(6, 9), spot_diff(8, 12), spot_diff(14, 15))[1] == [(12, 15)]


def test_a_late_diff_is_kept_but_is_not_part_of_the_chain():
    what = watch()
    verdicts, holes = fed(what, diff(100, 105), diff(110, 120), diff(105, 110), diff(105, 110), diff(120, 121))
    assert verdicts == [KEEP, KEEP, KEEP, DROP, KEEP] and holes == [(105, 120)]
    assert list(what.books["BTCUSDT"].diffs) == [(110, 120), (120, 121)]


def test_a_best_quote_that_comes_twice_is_dropped_and_an_older_one_is_kept():
    assert fed(watch(), best(5), best(5), best(9), best(7))[0] == [KEEP, DROP, KEEP, KEEP]


def test_two_sockets_bring_each_best_quote_and_mark_once():
    for make in (best, mark):
        what = watch()
        fed(what, make(1), make(3))
        what.overlap(NAMES, True)
        assert fed(what, make(3), newest=True)[0] == [DROP]  # before the younger one came
        assert fed(what, make(4), newest=False)[0] == [KEEP]
        assert fed(what, make(4), make(6), newest=True)[0] == [DROP, KEEP]
        assert fed(what, make(5), make(6), newest=False)[0] == [KEEP, DROP]
        fed(what, make(8), newest=False)
        what.overlap(NAMES, False)
        assert fed(what, make(8), make(9), make(8))[0] == [DROP, KEEP, KEEP]


def test_a_younger_socket_that_is_ahead_waits_for_the_older():
    what = watch()
    fed(what, trade(1), trade(2))
    what.overlap(NAMES, True)
    assert fed(what, trade(5), trade(6), newest=True) == ([HOLD, HOLD], [])
    stream = what.streams[TRADE]
    assert list(what.released(stream, 1.1)) == [] and what.holding == 2
    assert fed(what, trade(3), trade(4), trade(5), newest=False) == ([KEEP] * 3, [])
    assert list(what.released(stream, 1.1)) == [(trade(6), ())] and what.holding == 0 and stream.duplicates == 1
    assert fed(what, trade(6), newest=False)[0] == [DROP]


@pytest.mark.parametrize("late", [True, False])
def test_a_frame_waits_no_longer_than_it_may(late):
    what = watch()
    fed(what, trade(1))
    what.overlap(NAMES, True)
    fed(what, trade(5), newest=True)
    out = (
        list(what.released(what.streams[TRADE], 1.0 + HELD_S * 1.1))
        if late
        else list(what.released(what.streams[TRADE], 1.0, all_of_them=True))
    )
    assert [(payload, [(hole.from_id, hole.to_id) for hole in holes]) for payload, holes in out] == [
        (trade(5), [(1, 5)])
    ]
    assert fed(what, trade(2), newest=False) == ([KEEP], [])


def test_ids_that_begin_anew_are_not_dropped_for_ever():
    what = watch()
    verdicts, holes = fed(what, trade(1_000_000), *(trade(n) for n in range(1, BACKWARD + 10)))
    assert verdicts.count(DROP) == BACKWARD - 1 and verdicts[-10:] == [KEEP] * 10 and holes == [(1_000_000, BACKWARD)]


@pytest.mark.parametrize("cut", [10, 16, 30, 60, 90])
def test_half_a_diff_is_kept_and_takes_the_book_with_it(cut):
    what = watch()
    fed(what, diff(100, 105), diff(105, 106))
    book = what.books["BTCUSDT"]
    assert book.judge(105) and book.synced
    assert what.judge(diff(106, 107)[:cut], 1.0)[2] == KEEP
    assert what.malformed == 1 and not book.synced and book.wanted and not book.diffs


@pytest.mark.parametrize("sent", [b"1" + b"0" * 400, b"-1" + b"0" * 400, b"9223372036854775807", b'"1"'])
def test_a_diff_of_a_time_that_is_none_is_kept_and_takes_the_book_with_it(sent):
    what = watch()
    fed(what, diff(100, 105), diff(105, 106))
    assert what.books["BTCUSDT"].judge(105)
    assert fed(what, diff(106, 107).replace(b'"E":1,', b'"E":' + sent + b","))[0] == [KEEP]
    assert what.malformed == 1 and what.books["BTCUSDT"].wanted


@pytest.mark.parametrize("number", [2**62, 2**63, 2**64, -2**64])
def test_a_number_that_is_no_id_is_kept_and_nothing_is_held_against_it(number):
    what = watch()
    assert fed(what, trade(5), trade(number), trade(6)) == ([KEEP] * 3, [])
    assert fed(what, best(5), best(number), best(6)) == ([KEEP] * 3, [])
    fed(what, diff(100, 105), diff(105, 106))
    assert what.books["BTCUSDT"].judge(105)
    assert fed(what, diff(106, number)) == ([KEEP], []) and what.books["BTCUSDT"].wanted
    assert fed(what, diff(106, 107)) == ([KEEP], []) and what.malformed == 3


def test_half_a_trade_costs_no_book_and_an_unknown_stream_nothing():
    what = watch()
    fed(what, diff(100, 105), diff(105, 106))
    what.books["BTCUSDT"].judge(105)
    fed(what, trade(1)[:60])
    fed(what, frame("!serverShutdown", e="serverShutdown", E=1), b'{"data":{"t":4},"stream":"ethusdt@trade"}')
    assert what.books["BTCUSDT"].synced and (what.malformed, what.unknown) == (1, 2)


def test_the_order_of_the_keys_does_not_matter():
    assert fed(watch(), b'{"data":{"t":4,"s":"BTCUSDT"},"stream":"btcusdt@trade"}', trade(6))[1] == [(4, 6)]


def test_a_book_links_by_the_venues_rule():
    book = Book("BTCUSDT")
    assert not book.judge(50)  # no diff yet: nobody could tell what follows
    book.follow(100, 105)
    book.follow(105, 110)
    assert not book.judge(90) and book.wanted  # older than the first diff
    assert book.judge(100) and book.synced  # the first diff continues it
    book.restart()
    book.follow(100, 105)
    assert book.judge(120) and not book.synced  # newer than all: the next diff tells
    book.follow(105, 119)
    assert not book.synced
    book.follow(119, 130)
    assert book.synced and not book.wanted


def test_silence_is_told_once_and_again_for_another_socket():
    what = watch(depth=3.0, trades=5.0, best=100.0, marks=4.0)
    for stream in what.streams.values():
        what.connection(stream, 10.0)
    fed(what, diff(1, 2), at_s=11.0)
    what.books["BTCUSDT"].judge(1)
    assert what.silent(13.9) == []
    assert [(stream.name, news) for stream, news in what.silent(14.1)] == [(DIFF, True), (MARK, True)]
    assert what.books["BTCUSDT"].wanted and what.silent(14.2) == []
    assert [(stream.name, news) for stream, news in what.silent(15.1)] == [(TRADE, True)]
    again = [(stream.name, news) for stream, news in what.silent(26.0)]
    assert set(again) == {(TRADE, False), (DIFF, False), (MARK, False)}
    fed(what, trade(1), at_s=26.5)
    assert what.streams[TRADE].recovered and not what.streams[TRADE].silent
    what.connection(what.streams[DIFF], 0.0)  # lost: nobody waits for it
    assert all(stream.name != DIFF for stream, _ in what.silent(1e6))


def test_a_stream_is_heard_only_by_a_frame_that_can_be_read_since_it_connected():
    what = watch()
    stream = what.streams[TRADE]
    what.connection(stream, 1.0)
    fed(what, diff(1, 2), trade(1)[:60])
    assert not stream.heard
    fed(what, trade(1))
    assert stream.heard
    what.connection(stream, 0.0)
    assert not stream.heard


@pytest.mark.parametrize("make, name", [(trade, TRADE), (lambda n: diff(n - 1, n), DIFF)])
def test_how_far_a_stream_is_behind_is_the_least_of_two_seconds(make, name):
    what, found = watch(), []
    stream = what.streams[name]
    assert math.isnan(stream.behind_ms)
    for n, (at_s, sent_ms) in enumerate([(10.0, 1000), (10.5, 2000), (11.0, 500), (12.4, 3000), (13.0, 3000)], 1):
        fed(what, make(n).replace(b'"E":1,', b'"E":%d,' % sent_ms), at_s=at_s)
        found.append(stream.behind_ms)
    assert found == [9000.0, 8500.0, 8500.0, 8500.0, 10000.0]
    fed(what, make(5).replace(b'"E":1,', b'"E":99999,'), at_s=13.1)     # a double tells nothing
    assert stream.behind_ms == 10000.0
    what.connection(stream, 14.0)
    assert math.isnan(stream.behind_ms)


def test_a_slow_stream_is_given_its_own_pace():
    what = watch(trades=5.0)
    what.connection(what.streams[TRADE], 1.0)
    for n in range(200):
        fed(what, trade(n + 1), at_s=1.0 + 20.0 * n)
    last_s = 1.0 + 20.0 * 199
    assert what.silent(last_s + 300.0) == [] and what.silent(last_s + 700.0) != []


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 6))), max_size=60),
    st.booleans(),
)
def test_whatever_order_trades_come_in_each_is_kept_once_and_each_missing_one_is_in_a_hole(steps, spot):
    what, kept, named = watch(not spot), [], []
    for step in steps:
        first, count = (step, 1) if isinstance(step, int) else step
        for number in range(first, first + count):
            verdicts, holes = fed(what, trade(number))
            kept += [number] * (verdicts[0] == KEEP)
            named += holes
    assert len(kept) == len(set(kept))
    if kept:
        offered = {n for step in steps for n in ([step] if isinstance(step, int) else range(step[0], sum(step)))}
        assert set(kept) == {n for n in offered if n >= kept[0]}
        missing = set(range(min(kept), max(kept))) - set(kept)
        assert all(any(low < n < high for low, high in named) for n in missing)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 15), st.integers(0, 12), st.lists(st.integers(0, 1), max_size=60), st.integers(0, 60))
def test_two_sockets_in_any_interleaving_give_every_frame_once_in_order(joined, behind, turns, closes):
    """The younger socket brings everything from `joined` on, the older all up to the end: no hole, no double."""
    what, out = watch(), []
    older, younger = list(range(1, 41)), list(range(joined, 41))
    what.overlap(NAMES, True)

    def take(number: int, newest: bool | None) -> None:
        stream, holes, verdict = what.judge(trade(number), 1.0, newest)
        assert holes == ()
        if verdict == KEEP:
            out.append(number)
        if verdict != HOLD:
            for payload, found in what.released(stream, 1.0):
                assert found == ()
                out.append(json.loads(payload)["data"]["t"])

    for _ in range(max(1, joined - behind)):
        take(older.pop(0), False)
    for turn in turns:
        if older if turn == 0 else younger:
            take((older if turn == 0 else younger).pop(0), turn == 1)
    while older:
        take(older.pop(0), False)
    what.overlap(NAMES, False)
    while younger:
        take(younger.pop(0), None)
    assert out == list(range(1, 41))
