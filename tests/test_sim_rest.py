"""REST of the exchange simulator: answers that fit the stream, whenever a client asks."""

import asyncio
import json
from bisect import bisect_left
from decimal import Decimal
from pathlib import Path

import pytest
from exchanges import asked, beginning, capture_config, dial, of_streams, read_all, recorded, with_exchange
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.decode import SPOT, USDM
from engine.sim.market import Market
from engine.sim.tape import Tape, load_tape


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return generate(MarketConfig(seed=3, duration_s=20.0), tmp_path_factory.mktemp("market") / "m").capture


@pytest.fixture(scope="module")
def rows(capture) -> list:
    return recorded(capture)


def test_rest_errors(capture):
    async def work(exchange):
        await read_all(exchange)
        return [(answer[0], answer[2]["code"]) for answer in [await asked(exchange, path) for path in (
            "/fapi/v1/depth", "/fapi/v1/depth?symbol=NOUSDT", "/fapi/v1/depth?symbol=BTCUSDT&limit=7", "/fapi/v1/trades?symbol=BTCUSDT&limit=x",
            "/fapi/v1/historicalTrades?symbol=BTCUSDT", "/api/v3/time", "/fapi/v1/aggTrades?symbol=BTCUSDT&fromId=1&startTime=1",
            "/fapi/v1/aggTrades?symbol=BTCUSDT&startTime=1&endTime=9000000")]]

    assert with_exchange(capture_config(capture), work) == [(400, -1102), (400, -1121), (400, -4021), (400, -1100), (401, -2014), (404, -1),
                                                           (400, -1128), (400, -1127)]


@pytest.mark.parametrize("status", [403, 451])
def test_a_blocked_exchange_refuses_rest_and_sockets(capture, status):
    async def work(exchange):
        with pytest.raises(InvalidStatus) as refused:
            await dial(exchange, "/public/ws")
        return (await asked(exchange, "/fapi/v1/time"))[0], refused.value.response.status_code

    assert with_exchange(capture_config(capture, blocked=status), work) == (status, status)


def test_exchange_info_tells_tick_and_step(capture, realdata, tmp_path):
    async def work(exchange):
        prefix = "/api/v3" if exchange.tape.venue == SPOT else "/fapi/v1"
        info = (await asked(exchange, f"{prefix}/exchangeInfo"))[2]["symbols"][0]
        filters = {entry["filterType"]: entry for entry in info["filters"]}
        return info["symbol"], info["baseAsset"], info["quoteAsset"], filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"]

    assert with_exchange(capture_config(capture), work) == ("BTCUSDT", "BTC", "USDT", "0.10", "0.001")
    spot = capture_config(beginning(realdata / "binance_spot" / "btcusdt_20240808.gz", 2_000, tmp_path))
    assert with_exchange(spot, work) == ("BTCUSDT", "BTC", "USDT", "0.01000000", "0.00000100")


def test_server_time_is_never_behind_a_stamp_sent(capture, rows):
    tape = load_tape([capture])
    for place in range(0, len(tape), 97):
        sent_ms = max(json.loads(frame).get("data", {}).get("E", 0) for frame in tape.frames[max(0, place - 50):place + 1])
        assert (tape.recv_ns[place] + tape.venue_ahead_ns) // 1_000_000 >= sent_ms


def test_depth_waits_for_the_first_body_or_is_refused(capture):
    async def work(exchange):
        answer = asyncio.create_task(asked(exchange, "/fapi/v1/depth?symbol=BTCUSDT&limit=5"))
        await asyncio.sleep(0.05)
        exchange.begin()
        return (await answer)[0], exchange.market.position > 0

    assert with_exchange(capture_config(capture), work) == (200, True)
    assert with_exchange(capture_config(capture, early_depth="refuse"), lambda e: asked(e, "/fapi/v1/depth?symbol=BTCUSDT"))[0] == 503


def naive_fold(bodies: list[dict], strict: bool) -> tuple[dict, dict, int] | None:
    """Fold a snapshot and then diffs by section 6 of the venue's rules, as a client would; None where the rule says refetch."""
    snapshot, last, linked = bodies[0], bodies[0]["lastUpdateId"], False
    sides = dict(snapshot["bids"]), dict(snapshot["asks"])
    for diff in bodies[1:]:
        if diff["u"] < last if strict else diff["u"] <= last:
            continue
        if strict and (diff["pu"] != last if linked else not diff["U"] <= last <= diff["u"]) or not strict and diff["U"] > last + 1:
            return None
        for side, changes in zip(sides, (diff["b"], diff["a"])):
            for price, qty in changes:
                side.pop(price, None)
                if Decimal(qty):
                    side[price] = qty
        last, linked = diff["u"], True
    return *sides, last


def check_any_client_syncs(tape, market, picks: st.DataObject) -> None:
    """A client that subscribed anywhere and fetched anywhere later ends with the book the whole capture gives."""
    strict = tape.venue == USDM
    diffs = tape.of("BTCUSDT", "depth")
    body_at = tape.of("BTCUSDT", "rest:")[0]
    fetched_at = picks.draw(st.integers(body_at + 1, len(tape)))
    subscribed_at = picks.draw(st.integers(0, fetched_at))
    market.rewind()
    market.position = fetched_at
    book, last_id = market.book("BTCUSDT")
    bids, asks = book.levels(1_000_000)
    bodies = [json.loads(tape.data(place)) for place in diffs[bisect_left(diffs, subscribed_at):]]
    got = naive_fold([{"lastUpdateId": last_id, "bids": bids, "asks": asks}, *bodies], strict)
    want = naive_fold([json.loads(tape.frames[body_at]), *(json.loads(tape.data(place)) for place in diffs)], strict)
    assert got is not None, "the venue's own rule must find the snapshot good"
    assert got[:2] == want[:2]


@pytest.fixture(scope="module")
def tape(capture) -> Tape:
    return load_tape([capture])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_client_syncs_by_the_futures_rule(tape, data):
    check_any_client_syncs(tape, Market(tape), data)


@pytest.fixture(scope="module")
def real_tapes(realdata, tmp_path_factory) -> list:
    """The first seconds of a USD-M and a spot recording."""
    folder = tmp_path_factory.mktemp("real")
    return [load_tape([beginning(realdata / f"binance_{venue}" / "btcusdt_20240808.gz", 3_000, folder)]) for venue in ("usdm", "spot")]


@pytest.mark.parametrize("which", [0, 1])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_client_syncs_on_real_recordings(real_tapes, which, data):
    check_any_client_syncs(real_tapes[which], Market(real_tapes[which]), data)


def test_the_book_tells_the_recorded_best_quote_at_its_id(real_tapes):
    for tape in real_tapes:
        market, quotes = Market(tape), {}
        for place in tape.of("BTCUSDT", "bookTicker"):
            row = json.loads(tape.data(place))
            quotes[row["u"]] = (row["b"], row["B"]), (row["a"], row["A"])
        ids, seen = sorted(quotes), []
        for place in tape.of("BTCUSDT", "depth")[30:]:
            market.position = place + 1
            book, _ = market.book("BTCUSDT")
            bids, asks = book.levels(1)
            seen.append((bids[0], asks[0]) == quotes[ids[bisect_left(ids, book.last_id + 1) - 1]])
        assert len(seen) > 150 and sum(seen) >= len(seen) - 2


def test_trades_by_id_are_those_sent_so_far(capture, rows):
    trades = [json.loads(frame)["data"] for frame in of_streams(rows, "trade")]
    market = Market(load_tape([capture]))
    market.position = market.tape.of("BTCUSDT", "trade")[500]
    played_ids = [row["t"] for row in trades[:500]]
    assert [row["id"] for row in market.trades("BTCUSDT", 1000)] == played_ids
    assert [row["id"] for row in market.trades("BTCUSDT", 10)] == played_ids[-10:]
    assert [row["id"] for row in market.trades("BTCUSDT", 7, played_ids[100])] == played_ids[100:107]
    assert market.trades("BTCUSDT", 7, played_ids[-1] + 1) == []
    first = market.trades("BTCUSDT", 1, 0)[0]
    assert (first["price"], first["qty"], first["time"], first["isBuyerMaker"]) == tuple(trades[0][name] for name in "pqTm")


@pytest.mark.parametrize("which", [0, 1])
def test_derived_aggregates_hold_every_market_trade_once(real_tapes, which):
    tape = real_tapes[which]
    trades = [json.loads(tape.data(place)) for place in tape.of("BTCUSDT", "trade")]
    trades = {row["t"]: row for row in trades if row.get("X", "MARKET") == "MARKET"}
    left = dict(trades)
    rows = [json.loads(tape.data(place)) for place in tape.of("BTCUSDT", "aggTrade")]
    assert [row["a"] for row in rows] == list(range(rows[0]["a"], rows[0]["a"] + len(rows))) and len(rows) < len(trades)
    for row in rows:
        group = [left.pop(trade_id) for trade_id in range(row["f"], row["l"] + 1) if trade_id in left]
        assert {(fill["p"], fill["m"]) for fill in group} == {(row["p"], row["m"])}
        assert sum(Decimal(fill["q"]) for fill in group) == Decimal(row["q"])
        assert max(fill["T"] for fill in group) - min(fill["T"] for fill in group) < (100 if tape.venue == USDM else 1)
    assert not left


def test_aggregates_by_id_and_time(real_tapes):
    market = Market(real_tapes[0])
    market.position = len(market.tape)
    rows = market.aggregates("BTCUSDT", 1000)
    assert market.aggregates("BTCUSDT", 5, from_id=rows[3]["a"]) == rows[3:8]
    span = [row for row in rows if rows[10]["T"] <= row["T"] <= rows[60]["T"]]
    assert market.aggregates("BTCUSDT", 1000, start_ms=rows[10]["T"], end_ms=rows[60]["T"]) == span
