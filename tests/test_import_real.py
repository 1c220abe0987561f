"""The real recordings, imported once each: their documented facts, and every price and quantity text back again."""

import csv
import gzip
import io
import json
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.compute as pc
import pytest

from engine.instruments import Instrument
from engine.kernel.records import AGGREGATED, FIRST, LAST, NOT_MARKET, SNAPSHOT_LEVEL
from engine.record.importer import import_files
from engine.record.store import TABLES, Session

USDM_2023 = ["binance_usdm/btcusdt_20230405.dat.gz", "binance_usdm/btcusdt_20230404.dat.gz"]  # not in order of time
USDM_2024 = ["binance_usdm/btcusdt_20240808.gz", "binance_usdm/ethusdt_20240808.gz"]
SPOT_2024 = ["binance_spot/btcusdt_20240808.gz", "binance_spot/btcusdt_20240809.gz"]
FEED_USDM = ["cryptofeed/6397a047_BINANCE_FUTURES-1125a2.0.gz"]
FEED_SPOT = ["cryptofeed/8980a803_BINANCE-ee25be.0.gz"]
MT5 = ["mt5/BTCUSD_20260307_090342_ticks.json.gz", "mt5/ETHUSD_20260307_090431_ticks.json.gz"]
CAPTURES = {
    "usdm_2023": USDM_2023, "usdm_2024": USDM_2024, "spot_2024": SPOT_2024, "feed_usdm": FEED_USDM,
    "feed_spot": FEED_SPOT
}


class Imported:
    """A real import: its result and its session."""

    def __init__(self, paths: list[Path], data: Path):
        self.paths = paths
        self.result = import_files(paths, data)
        self.session = Session(self.result["path"])
        self.manifest = self.session.manifest

    def count(self, table: str, symbol: str) -> int:
        """Return how many messages of a table a symbol has."""
        rows = self.session.table(table, ["symbol", "bits"] if table == "depth" else ["symbol"])
        rows = rows.filter(pc.equal(rows["symbol"].cast("string"), symbol))
        if table == "depth":
            bits = rows["bits"].to_numpy()
            return int(((bits & FIRST > 0) & (bits & SNAPSHOT_LEVEL == 0)).sum())
        return rows.num_rows


@pytest.fixture(scope="module")
def imported(realdata, tmp_path_factory):
    """Return a function that imports a named set of recordings, once."""
    kept: dict[str, Imported] = {}

    def get(name: str) -> Imported:
        if name not in kept:
            names = CAPTURES.get(name) or {"mt5": MT5}.get(name)
            paths = [realdata / n for n in names] if names else sorted((realdata / "trades_with_gaps").glob("*.csv.gz"))
            kept[name] = Imported(paths, tmp_path_factory.mktemp(name))
        return kept[name]
    return get


FACTS = {
    "usdm_2023": {"trade": 12_935, "depth": 16_110, "best": 44_205, "snapshot": 1, "mark": 514, "not_market": 1},
    "usdm_2024": {"trade": 21_313 + 14_076, "depth": 6_551 + 6_586, "best": 66_089 + 53_992, "snapshot": 2},
    "spot_2024": {"trade": 19_904, "depth": 6_495, "best": 73_174, "snapshot": 1},
    "feed_usdm": {"trade": 574, "depth": 4_423, "best": 3_424, "snapshot": 5},
    "feed_spot": {"trade": 1_910, "depth": 2_688, "snapshot": 3, "kline": 118},
    "ltc": {"trade": 152_763}, "mt5": {"quote": 694 + 536},
}
NOTHING = dict.fromkeys(("trade", "depth", "best", "snapshot", "mark", "liquidation", "not_market", "quote", "kline"),
                        0)


@pytest.mark.parametrize("name", FACTS)
def test_message_counts(imported, name):
    session = imported(name)
    assert session.result["messages"] == NOTHING | FACTS[name]
    assert session.result["skipped"] == [] and session.manifest["duplicates"] == session.manifest["clock_steps"] == 0
    assert session.manifest["messages"] == sum(FACTS[name].values()) - FACTS[name].get("not_market", 0)


def test_each_symbol_of_a_pair_has_its_own_messages(imported):
    pair = imported("usdm_2024")
    assert [pair.count(t, "BTCUSDT") for t in ("trades", "depth", "best")] == [21_313, 6_551, 66_089]
    assert [pair.count(t, "ETHUSDT") for t in ("trades", "depth", "best")] == [14_076, 6_586, 53_992]
    mt5 = imported("mt5")
    assert [mt5.count("quotes", s) for s in ("BTCUSD", "ETHUSD")] == [694, 536]


@pytest.mark.parametrize("name, first_ns, last_ns", [
    ("usdm_2023", 1680652700423575000, 1680653214683925000), ("usdm_2024", 1723161255030314667, 1723161599881488984),
    ("spot_2024", 1723161253937085768, 1723161904535092233), ("feed_usdm", 1617647797596378800, 1617647916778440000),
    ("feed_spot", 1617566591326123000, 1617566682365933000), ("ltc", 1750507467356000000, 1750636795708000000),
    ("mt5", 1772870622342000000, 1772870833685000000)])
def test_first_and_last_time(imported, name, first_ns, last_ns):
    result = imported(name).result
    assert (result["first_recv_ns"], result["last_recv_ns"]) == (first_ns, last_ns)


@pytest.mark.parametrize(
    "name, sizes",
    [("usdm_2023", {"BTCUSDT": ("0.1", "0.001", 2, 3)}),
     ("usdm_2024", {"BTCUSDT": ("0.1", "0.001", 2, 3), "ETHUSDT": ("0.01", "0.001", 2, 3)}),
     ("spot_2024", {"BTCUSDT": ("0.01", "0.000001", 8, 8)}),
     ("feed_usdm", {
         "BATUSDT": ("0.0001", "0.1", 4, 1), "CHRUSDT": ("0.0001", "1", 4, 0), "CTKUSDT": ("0.00001", "1", 5, 0),
         "NEOUSDT": ("0.001", "0.01", 3, 2), "SANDUSDT": ("0.00001", "1", 5, 0)
     }), ("ltc", {"LTCUSDT": ("0.01", "0.001", -1, -1)}),
     ("mt5", {"BTCUSD": ("0.01", "1", 5, 0), "ETHUSD": ("0.01", "1", 5, 0)})])
def test_step_sizes_and_text_styles(imported, name, sizes):
    found = {
        i.symbol: (i.tick_size, i.lot_size, i.price_decimals, i.qty_decimals)
        for i in imported(name).session.instruments
    }
    assert found == sizes
    assert imported(name).manifest["notes"] == []


@pytest.mark.parametrize("name", FACTS)
def test_one_dense_order_with_time_going_strictly_forward(imported, name):
    session = imported(name).session
    seq, recv = [], []
    for table in TABLES:
        rows = session.table(table, ["seq", "recv_ns"])
        found, first = np.unique(rows["seq"].to_numpy(), return_index=True)
        assert (np.diff(rows["seq"].to_numpy()) >= 0).all(), f"{table} is not in order of seq"
        seq.append(found)
        recv.append(rows["recv_ns"].to_numpy()[first])
    seq, recv = np.concatenate(seq), np.concatenate(recv)[np.argsort(np.concatenate(seq))]
    assert np.array_equal(np.sort(seq), np.arange(1, session.manifest["last_seq"] + 1))
    assert (np.diff(recv) > 0).all()


@pytest.mark.parametrize("name", FACTS)
def test_timers_stand_on_whole_steps(imported, name):
    session = imported(name)
    feed = session.session.table("feed")
    timers = feed.filter(pc.equal(feed["code"], "timer"))
    assert timers["symbol"].null_count == timers["event_ns"].null_count == timers.num_rows
    assert set(timers["stream"].to_pylist()) <= {""}
    recv, step = timers["recv_ns"].to_numpy(), 100_000_000
    first, last = session.result["first_recv_ns"], session.result["last_recv_ns"]
    assert np.array_equal(recv // step, np.arange(-(-first // step), last // step + 1))
    assert (recv % step < 1_000).all(), "a timer was moved by more than a collision of stamps explains"


@pytest.mark.parametrize("name", CAPTURES)
def test_no_capture_has_a_hole(imported, name):
    session = imported(name)
    assert session.manifest["gaps"] == []
    codes = session.session.table("feed", ["code"])["code"].to_pylist()
    streams = sum(
        session.count(t, i.symbol) > 0 for i in session.session.instruments for t in ("trades", "depth", "best"))
    assert (codes.count("gap"), codes.count("connected")) == (0, streams)


def test_the_insurance_fund_print_is_kept_and_marked(imported):
    trades = imported("usdm_2023").session.table("trades")
    row = trades.filter(pc.equal(trades["trade_id"], 3535191080)).to_pylist()[0]
    assert (row["bits"], row["price_ticks"]) == (NOT_MARKET, 287225)


@pytest.mark.parametrize("name, symbol, usd", [("usdm_2023", "BTCUSDT", 608_978), ("usdm_2024", "BTCUSDT", 2_833_600),
                                               ("usdm_2024", "ETHUSDT", 710_417), ("spot_2024", "BTCUSDT", 427_121)])
def test_largest_trade(imported, name, symbol, usd):
    session = imported(name).session
    trades = session.table("trades")
    trades = trades.filter(pc.equal(trades["symbol"].cast("string"), symbol))
    value = (trades["price_ticks"].to_numpy() * trades["qty_lots"].to_numpy()).max()
    assert int(int(value) * session.instrument(symbol).usd_per_ticklot + 1 / 2) == usd


def test_the_real_gaps_of_the_ltc_trades(imported):
    session = imported("ltc")
    gaps = session.manifest["gaps"]
    assert (len(gaps), sum(g["missing"] for g in gaps), max(g["missing"] for g in gaps)) == (26, 25_595, 24_645)
    feed = session.session.table("feed")
    rows = feed.filter(pc.equal(feed["code"], "gap")).to_pylist()
    assert [(r["seq"], r["from_id"], r["to_id"]) for r in rows] == [(g["seq"], g["after"], g["before"]) for g in gaps]
    assert {(r["symbol"], r["stream"]) for r in rows} == {("LTCUSDT", "trades")}
    trades = session.session.table("trades")
    revealed = trades.filter(
        pc.is_in(trades["seq"],
                 pc.add(feed.filter(pc.equal(feed["code"], "gap"))["seq"], 1).combine_chunks()))
    assert revealed["trade_id"].to_pylist() == [g["before"] for g in gaps]
    assert session.manifest["clock"] == "event"


def test_the_ltc_side_is_the_takers(imported):
    trades = imported("ltc").session.table("trades").sort_by("trade_id")
    price, side = trades["price_ticks"].to_numpy(), trades["side"].to_numpy()
    turned = np.flatnonzero(np.diff(side) != 0)
    step = np.diff(price)[turned] * side[turned + 1]
    assert (step > 0).sum() > 20 * (step < 0).sum(), "a buy after a sell should print higher, at the ask"


def test_mt5_stamps_become_utc(imported):
    session = imported("mt5")
    assert session.manifest["server_offset_s"] == 3600 and session.manifest["clock"] == "receive"
    quotes = session.session.table("quotes")
    late_ms = (quotes["recv_ns"].to_numpy() - quotes["event_ns"].to_numpy()) / 1e6
    assert -1_200 < late_ms.min() and late_ms.max() < -500, "both clocks agree but for what the collector is behind"
    btc = quotes.filter(pc.equal(quotes["symbol"].cast("string"), "BTCUSD"))
    spread = btc["ask_price_ticks"].to_numpy() - btc["bid_price_ticks"].to_numpy()
    assert (spread.min(), spread.max()) == (1694, 1712)


@pytest.mark.parametrize("name", FACTS)
def test_every_file_is_in_the_manifest_with_its_hash(imported, name):
    session = imported(name)
    assert [s["file"] for s in session.manifest["sources"]] == [p.name for p in session.paths]
    assert sum(s["messages"] for s in session.manifest["sources"]) == session.manifest["messages"]
    for table in TABLES:
        session.session.verify(table)


def stored_texts(table, column: str, instrument: Instrument) -> np.ndarray:
    """Return a column of the session as the venue's texts."""
    steps, index = np.unique(table[column].drop_null().to_numpy(), return_inverse=True)
    write = instrument.price_text if column.endswith("_ticks") else instrument.qty_text
    return np.array([write(int(s)) for s in steps] or [""])[index]


def sent_texts(paths: list[Path]) -> dict[tuple[str, str, str], list[str]]:
    """Return every price and quantity text of capture files by symbol, table and column, in order of receipt."""
    texts = defaultdict(list)
    for path in sorted(paths, key=lambda p: p.name):
        only = path.name.partition("_")[0].upper()
        for line in gzip.open(path):
            start = line.find(b'{"')
            if start < 0 or line.startswith(b"configuration"):
                continue
            body = msgspec.json.decode(line[start:])
            url = line[:start].partition(b"symbol=")[2].partition(b"&")[0].decode()
            _sort_texts(texts, body.get("data", body), url or only, body.get("stream", ""))
    return texts


def _sort_texts(texts: dict, data: dict, only: str, stream: str) -> None:
    symbol = data.get("s", only)
    if "lastUpdateId" in data or "@depth" in stream:
        for side in ("bids", "asks", "b", "a"):
            for price, qty in data.get(side, ()):
                texts[symbol, "depth", "price_ticks"].append(price)
                texts[symbol, "depth", "qty_lots"].append(qty)
    elif "rade" in stream:
        texts[symbol, "trades", "price_ticks"].append(data["p"])
        texts[symbol, "trades", "qty_lots"].append(data["q"])
    elif "bookTicker" in stream:
        for key, column in zip("bBaA", ("bid_price_ticks", "bid_qty_lots", "ask_price_ticks", "ask_qty_lots"),
                               strict=True):
            texts[symbol, "best", column].append(data[key])
    elif "kline" in stream:
        for key, column in zip(
                "ohlcvV", ("open_ticks", "high_ticks", "low_ticks", "close_ticks", "volume_lots", "taker_buy_lots"),
                strict=True):
            texts[symbol, "klines", column].append(data["k"][key])


@pytest.mark.parametrize("name", CAPTURES)
def test_every_text_of_a_capture_comes_back(imported, name):
    session = imported(name)
    sent = sent_texts(session.paths)
    compared = 0
    for table in ("depth", "trades", "best", "klines"):
        rows = session.session.table(table)
        for instrument in session.session.instruments:
            own = rows.filter(pc.equal(rows["symbol"].cast("string"), instrument.symbol))
            for column in [c for c in own.column_names if c.endswith(("_ticks", "_lots"))]:
                expected = np.array(sent.pop((instrument.symbol, table, column), []), dtype=str)
                assert np.array_equal(stored_texts(own, column, instrument),
                                      expected), (instrument.symbol, table, column)
                compared += len(expected)
    assert not sent and compared > 100_000 * (name.startswith(("usdm", "spot")))


def test_every_text_of_the_ltc_trades_comes_back(imported):
    session = imported("ltc")
    sent = [
        row for path in session.paths for row in csv.DictReader(io.TextIOWrapper(gzip.open(path), encoding="ascii"))
    ]
    sent.sort(key=lambda row: int(row["tradeId"]))
    rows = session.session.table("trades").sort_by("trade_id")
    instrument = session.session.instrument("LTCUSDT")
    assert stored_texts(rows, "price_ticks", instrument).tolist() == [row["price"] for row in sent]
    assert stored_texts(rows, "qty_lots", instrument).tolist() == [row["quantity"] for row in sent]
    assert rows["side"].to_pylist() == [1 if row["side"] == "buy" else -1 for row in sent]
    assert rows["event_ns"].to_pylist() == [int(row["timestamp"]) * 1_000_000 for row in sent]


def test_every_text_of_the_mt5_ticks_comes_back(imported):
    session = imported("mt5")
    quotes = session.session.table("quotes")
    for path in session.paths:
        body = json.loads(gzip.open(path).read(), parse_float=str)
        symbol = body["metadata"]["symbol"]
        own = quotes.filter(pc.equal(quotes["symbol"].cast("string"), symbol))
        for side in ("bid", "ask"):
            found = stored_texts(own, f"{side}_price_ticks", session.session.instrument(symbol))
            assert found.tolist() == [tick[side] for tick in body["ticks"]]


def test_depth_rows_keep_the_order_and_the_ends_of_their_message(imported):
    rows = imported("spot_2024").session.table("depth", ["seq", "side", "bits"])
    seq, side, bits = (rows[c].to_numpy() for c in ("seq", "side", "bits"))
    new = np.concatenate([[True], np.diff(seq) > 0])
    assert np.array_equal(bits & FIRST > 0, new)
    assert np.array_equal(bits & LAST > 0, np.concatenate([new[1:], [True]]))
    assert (np.diff(side)[~new[1:]] <= 0).all(), "asks stand before bids"


def test_aggregates_are_marked_and_carry_their_trades(imported):
    trades = imported("feed_spot").session.table("trades")
    assert (trades["bits"].to_numpy() == AGGREGATED).all()
    assert (trades["last_id"].to_numpy() >= trades["first_id"].to_numpy()).all()
    assert (trades["trade_id"].to_numpy() != trades["first_id"].to_numpy()).all()
