"""A session's rows in one order, whatever the pieces it is read in, and rows that no venue sent merged into them."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import best, diff, joined, quote, stream, timer, trade
from sessions import Rows, insert_feed, insert_message, message_seqs, tiny_session

from engine import stream as streams
from engine.entries import parse_entries, plan_entries
from engine.errors import BadInput
from engine.kernel import records as R
from engine.kernel.records import FIRST, LAST
from engine.positions import open_desk
from engine.record.store import Session
from engine.replay import Feed, Plan
from engine.stream import Injector, events, rechunk

SYMBOLS = ("ETHUSDT", "BTCUSDT")
NUMBERS = {"BTCUSDT": 0, "ETHUSDT": 1}
CODES = {"connected": R.CONNECTED, "lost": R.LOST, "gap": R.GAP, "resync": R.RESYNC, "stale": R.STALE}
STREAMS = {"": R.MISSING, "trades": R.TRADE, "depth": R.DEPTH, "best": R.BEST, "quotes": R.QUOTE}


def enrich(seed: int):
    """Return an edit that adds broker quotes, feed rows of every kind, top-N frames and one frame longer than any batch."""
    rng = random.Random(seed)

    def edit(rows: Rows) -> None:
        for code in CODES:
            insert_feed(rows, rng.randint(5, 300), code, rng.choice(list(STREAMS)), rng.choice((None, *SYMBOLS)))
        for n in range(12):
            insert_message(rows, "quotes", rng.randint(5, 300), [dict(symbol="BTCUSDT", bid_price_ticks=n, ask_price_ticks=n + 5, bits=0)])
        long = [dict(symbol="ETHUSDT", side=1, price_ticks=n, qty_lots=n, first_id=1, last_id=2, prev_id=None, bits=R.PARTIAL_DEPTH)
                for n in range(40)]
        long[0]["bits"] |= FIRST
        long[-1]["bits"] |= LAST
        insert_message(rows, "depth", rng.randint(5, 300), long)
        insert_message(rows, "trades", 9, [dict(symbol="ETHUSDT", price_ticks=5, qty_lots=6, side=-1, trade_id=7, first_id=None,
                                                last_id=None, bits=R.NOT_MARKET | R.AGGREGATED)])
    return edit


def naive_rows(name: str, row: dict) -> list[dict]:
    """Return the EVENT rows of one row of a table."""
    base = dict(seq=row["seq"], recv_ns=row["recv_ns"], symbol=R.EVERY_SYMBOL if row["symbol"] is None else NUMBERS[row["symbol"]])
    if name == "trades":
        return [dict(base, kind=R.TRADE, event_ns=row["event_ns"], price_ticks=row["price_ticks"], qty_lots=row["qty_lots"],
                     side=row["side"], id=row["trade_id"], bits=row["bits"] | FIRST | LAST)]
    if name == "depth":
        return [dict(base, kind=R.SNAPSHOT if row["bits"] & R.SNAPSHOT_LEVEL else R.DEPTH, side=row["side"], price_ticks=row["price_ticks"],
                     qty_lots=row["qty_lots"], id=row["last_id"], prev_id=row["prev_id"], bits=row["bits"])]
    if name == "feed":
        if row["code"] == "timer":
            return [dict(base, kind=R.TIMER, code=0, bits=FIRST | LAST, id=STREAMS[row["stream"]])]
        return [dict(base, kind=R.FEED, code=CODES[row["code"]], bits=FIRST | LAST, id=STREAMS[row["stream"]])]
    return [dict(base, kind=R.BEST if name == "best" else R.QUOTE, side=side, bits=flag, price_ticks=row[f"{word}_price_ticks"],
                 **(dict(qty_lots=row[f"{word}_qty_lots"], id=row["update_id"]) if name == "best" else {}))
            for word, side, flag in (("bid", 1, FIRST), ("ask", -1, LAST))]


def naive_events(session: Session) -> np.ndarray:
    """Return a session's EVENT rows by sorting every row of every table by seq."""
    found = [(row["seq"], made) for name in ("trades", "depth", "best", "quotes", "feed") for row in session.table(name).to_pylist()
             for made in naive_rows(name, row)]
    found.sort(key=lambda each: each[0])
    out = np.zeros(len(found), R.EVENT)
    for name in ("event_ns", "price_ticks", "qty_lots", "id", "prev_id"):
        out[name] = R.MISSING
    for n, (_, made) in enumerate(found):
        for name, value in made.items():
            out[name][n] = R.MISSING if value is None else value
    return out


def whole_frames(chunk: np.ndarray) -> bool:
    """Tell whether a piece neither begins nor ends within a frame, its quotes included."""
    return bool(chunk["bits"][0] & FIRST) and bool(chunk["bits"][-1] & LAST)


@pytest.mark.parametrize("venue", ["binance_usdm", "binance_spot"])
def test_the_stream_is_every_row_of_every_table_by_seq_in_whole_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, venue: str) -> None:
    for seed in (1, 2):
        session = Session(tiny_session(tmp_path, f"s{seed}", SYMBOLS, venue, steps=60, seed=seed, edit=enrich(seed)))
        wanted = naive_events(session)
        assert (np.diff(wanted["seq"]) >= 0).all() and len(set(wanted["kind"])) == 7
        pieces = {}
        for size in (1, 2, 3, 7, 50, 1_000_000):
            monkeypatch.setattr(streams, "BATCH_ROWS", size)
            chunks = list(events(session, NUMBERS))
            pieces[size] = len(chunks)
            assert all(whole_frames(chunk) for chunk in chunks)
            found = np.concatenate(chunks)
            different = [name for name in R.EVENT.names if (found[name] != wanted[name]).any()] if len(found) == len(wanted) else ["length"]
            assert different == [], size
        assert pieces[1] > pieces[50] > pieces[1_000_000]


def test_a_part_of_the_tables_is_the_same_stream_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BATCH_ROWS", 5)
    session = Session(tiny_session(tmp_path, symbols=SYMBOLS, steps=60, edit=enrich(3)))
    whole = naive_events(session)
    for tables, kinds in ((["depth"], (R.DEPTH, R.SNAPSHOT)), (["trades", "feed"], (R.TRADE, R.FEED, R.TIMER)), (["liquidations"], ())):
        found = joined(*events(session, NUMBERS, [name for name in tables if name != "liquidations"]))
        assert (found == whole[np.isin(whole["kind"], kinds)]).all() and len(found) == np.isin(whole["kind"], kinds).sum()


def test_what_a_stream_cannot_mean_is_said_in_one_sentence(tmp_path: Path) -> None:
    def code(rows: Rows) -> None:
        rows["feed"][3]["code"] = "wobbly"

    def stream_name(rows: Rows) -> None:
        rows["feed"][3]["stream"] = "gossip"

    def nameless(rows: Rows) -> None:
        rows["trades"][3]["symbol"] = None
    for edit, words in ((code, "'wobbly'"), (stream_name, "'gossip'"), (nameless, "table trades")):
        session = Session(tiny_session(tmp_path, edit.__name__, edit=edit, steps=30))
        with pytest.raises(BadInput, match=words):
            list(events(session, NUMBERS))
    session = Session(tiny_session(tmp_path, "other", steps=30))
    with pytest.raises(BadInput, match="'BTCUSDT'"):
        list(events(session, {"ETHUSDT": 0}))


KINDS = st.lists(st.tuples(st.integers(1, 5), st.sampled_from(("timer", "trade", "best", "diff"))), min_size=1, max_size=25)


def venue_rows(made: list[tuple[int, str]]) -> np.ndarray:
    """Return a stream of frames, each later than the one before."""
    now, parts = 0, []
    for pause, what in made:
        now += 2 * pause
        parts.append({"timer": timer(now), "trade": trade(now, 5, 1, 1), "best": best(now, 4, 6),
                      "diff": diff(now, [(1, 1, 1), (1, 2, 2), (-1, 9, 1)])}[what])
    return stream(*parts)


@settings(max_examples=200, deadline=None)
@given(made=KINDS, late=st.lists(st.integers(0, 260), max_size=12), cuts=st.sets(st.integers(1, 24)), adds=st.integers(1, 4))
def test_injected_rows_follow_what_arrived_and_cuts_do_not_matter(made: list[tuple], late: list[int], cuts: set[int], adds: int) -> None:
    rows = venue_rows(made)
    mine = joined(*[quote(ns, n, n + 1) for n, ns in enumerate(sorted(late))])
    frames = np.split(rows, np.flatnonzero(rows["bits"] & FIRST)[1:])
    wanted = [(frame["recv_ns"][0], 0, frame) for frame in frames]
    for each in np.split(mine, range(2, len(mine), 2)):
        if len(each) and each["recv_ns"][0] <= rows["recv_ns"][-1]:
            before = rows["seq"][rows["recv_ns"] <= each["recv_ns"][0]]
            each["seq"] = before[-1] if len(before) else rows["seq"][0]      # before everything there is only the first to take it from
            wanted.append((each["recv_ns"][0], 1, each))
    wanted = joined(*[each for *_, each in sorted(wanted, key=lambda each: each[:2])])
    injector = Injector()
    mine["seq"] = 0
    for part in np.array_split(np.arange(0, len(mine), 2), adds):
        injector.add(joined(*[mine[at:at + 2] for at in part]))
    pieces = [joined(*group) for group in split_at(frames, cuts)]
    found = joined(*[injector.merge(piece) for piece in pieces])
    assert found.tobytes() == wanted.tobytes()
    assert (np.diff(found["recv_ns"]) >= 0).all() and (np.diff(found["seq"]) >= 0).all()


def split_at(frames: list[np.ndarray], cuts: set[int]) -> list[list[np.ndarray]]:
    """Cut a list of frames before some of its places; an empty piece among them."""
    places = [0, *sorted(cut for cut in cuts if cut < len(frames)), len(frames)]
    pieces = [frames[start:end] for start, end in zip(places, places[1:], strict=False)]
    return [pieces[0], [], *pieces[1:]]


@given(KINDS, st.one_of(st.none(), st.integers(1, 9)))
def test_rechunking_keeps_every_row_in_place(made: list[tuple], size: int | None) -> None:
    rows = venue_rows(made)
    chunks = list(rechunk(iter(np.array_split(rows, 3)), size))
    assert joined(*chunks).tobytes() == rows.tobytes()
    assert len(chunks) == 1 if size is None else all(0 < len(chunk) <= size for chunk in chunks)
    assert list(rechunk(iter([]), size)) == []


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded quotes", "modelled quotes"])
def test_what_the_kernel_is_fed_does_not_depend_on_how_the_session_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                           recorded: bool) -> None:
    session = Session(tiny_session(tmp_path, steps=200, seed=8))
    desk = open_desk(session.instruments, "0.01")
    desk.quoted[0] = recorded
    facts = session.manifest
    trades = plan_entries(parse_entries("every=2s,side=both,sl=10bps,start=1s"), facts["first_recv_ns"], facts["last_recv_ns"], "BTCUSDT")
    fed = {}
    for size in (1, 5, 64, 1_000_000):
        monkeypatch.setattr(streams, "BATCH_ROWS", size)
        fed[size] = list(Feed(Plan(session, trades, []), desk))
    whole = joined(*fed[1_000_000])
    assert len(fed[5]) > 50 and {R.POSITION, R.TRADE, R.BEST} <= set(whole["kind"]) and (R.QUOTE in whole["kind"]) != recorded
    assert [size for size, chunks in fed.items() if joined(*chunks).tobytes() != whole.tobytes()] == []
    assert (np.diff(whole["recv_ns"]) >= 0).all() and (np.diff(whole["seq"]) >= 0).all()
    assert all(whole_frames(chunk) for chunks in fed.values() for chunk in chunks)


def test_a_lost_connection_of_no_symbol_reaches_every_symbol_of_a_session(tmp_path: Path, linked) -> None:
    seq = 0

    def edit(rows: Rows) -> None:
        nonlocal seq
        seq = message_seqs(rows, "trades", "BTCUSDT")[-5]
        insert_feed(rows, seq + 1, "lost")
    session = Session(tiny_session(tmp_path, symbols=SYMBOLS, steps=60, edit=edit))
    desk = open_desk(session.instruments, "0.01")
    run = linked(pairs=desk.pairs)
    rows = joined(*events(session, desk.numbers))
    run.feed(rows[rows["seq"] <= seq])
    assert [(market.tape_ok, market.mid_ok, market.book_ok) for market in run.arrays["market"]] == [(1, 1, 1)] * 2
    run.feed(rows[rows["seq"] == seq + 1])
    assert [(market.tape_ok, market.mid_ok, market.book_ok) for market in run.arrays["market"]] == [(0, 0, 0)] * 2

