"""The moment: read from the kernel's own arrays, the same live and recorded, never changed by the future, keyed."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from analyses import BROKER, VENUE, Tape, folded
from replays import cut, frame_starts, rewritten

from engine.analysis.moment import Moment, canonical, parse_at
from engine.analysis.order_flow import order_flow_signal
from engine.analysis.screen import screen_parts
from engine.analysis.summary import analyse, analyse_moment, signal_answer, trend_answer
from engine.analysis.symbols import resolve
from engine.analysis.tape import sweeps
from engine.errors import BadInput
from engine.kernel import records as R
from engine.record.store import Session
from engine.stream import events


@pytest.fixture(scope="module")
def session(generated) -> Session:
    return generated.session


@pytest.fixture(scope="module")
def rows(session) -> np.ndarray:
    return np.concatenate(list(events(session, Moment(session.id, session.instruments).desk.numbers)))


def at_share(session: Session, share: float) -> int:
    first, last = session.manifest["first_recv_ns"], session.manifest["last_recv_ns"]
    return first + int((last - first) * share)


def every_answer(moment: Moment) -> str:
    """Return the bytes of every analysis at a moment."""
    return canonical([analyse_moment(moment, "btcusd"), analyse_moment(moment, "BTCUSDT", "BUY", "brief"), signal_answer(moment, "BTCUSDT", "M15"),
                      trend_answer(moment, "BTCUSDT", 60)])


@pytest.mark.slow
def test_recorded_and_live_give_the_same_bytes(session, rows):
    """A live loop gets rows as they come, some by some; at each moment it says what the recording says of it."""
    live = Moment(session.id, session.instruments)
    starts = frame_starts(rows)
    fed = 0
    for number, share in enumerate((0.02, 0.31, 0.6, 0.99)):
        at = at_share(session, share)
        end = int(np.searchsorted(rows["recv_ns"], at, "right"))
        step = (1, 7, 97, 4096)[number]
        edges = [*starts[(starts >= fed) & (starts < end)][::step].tolist(), end]
        for low, high in zip(edges, edges[1:], strict=False):
            live.feed(rows[low:high])
        fed = end
        assert every_answer(live) == every_answer(Moment.of_session(session, at))


def test_going_on_is_the_same_as_starting_anew(session):
    moment = Moment.of_session(session, at_share(session, 0.2))
    for share in (0.4, 0.4, 0.9):
        moment.advance(at_share(session, share))
        assert every_answer(moment) == every_answer(Moment.of_session(session, at_share(session, share)))


def test_the_future_changes_nothing(session, tmp_path):
    at = at_share(session, 0.6)
    before = every_answer(Moment.of_session(session, at))
    seq = Moment.of_session(session, at).seq

    def spoiled(name: str, table: pa.Table) -> pa.Table:
        later = pc.greater(table["recv_ns"], at)
        for column in ("price_ticks", "qty_lots", "bid_price_ticks", "ask_price_ticks", "bid_qty_lots"):
            if column in table.column_names:
                table = table.set_column(table.column_names.index(column), column, pc.if_else(later, pc.add(table[column], 7), table[column]))
        return table

    assert every_answer(Moment.of_session(cut(session, tmp_path / "cut", seq), at)) == before
    other = rewritten(session, tmp_path / "spoiled", spoiled)
    assert every_answer(Moment.of_session(other, at)) == before
    assert every_answer(Moment.of_session(other, at_share(session, 0.7))) != every_answer(Moment.of_session(session, at_share(session, 0.7)))


def test_the_key_names_record_moment_code_and_arguments(session):
    moment = Moment.of_session(session, at_share(session, 0.5))
    keys = [analyse_moment(moment, "BTCUSDT")["key"], analyse_moment(moment, "BTCUSDT", detail="brief")["key"],
            analyse_moment(moment, "BTCUSDT", "BUY")["key"], signal_answer(moment, "BTCUSDT", 30)["key"], signal_answer(moment, "BTCUSDT", 60)["key"],
            analyse_moment(Moment.of_session(session, at_share(session, 0.51)), "BTCUSDT")["key"]]
    assert len(set(keys)) == len(keys)
    assert analyse_moment(moment, "btcusdt")["key"] == keys[0] and signal_answer(moment, "BTCUSDT", "M5")["key"] == keys[3]


def test_windows_are_the_kernels_own(rows, session):
    """The sums over a window are those the rules read."""
    moment = Moment(session.id, session.instruments)
    for end in np.linspace(len(rows) // 3, len(rows), 5).astype(int):
        start = int(np.searchsorted(rows["seq"], 0 if moment.seq is None else moment.seq, "right"))
        moment.feed(rows[start:int(np.searchsorted(rows["seq"], rows["seq"][end - 1], "right"))])
        view = moment.view("BTCUSDT")
        for w, seconds in enumerate(R.WINDOW_S):
            if seconds <= 600:
                expected = moment.run.arrays["windows"][0, w, :R.N_SUMS] + moment.run.arrays["slot"][0]
                assert np.array_equal(view.window(seconds), expected), seconds
        flow = order_flow_signal(view, 30)
        assert flow["parts"]["pressure"]["value"] == pytest.approx(float(view.market.imbalance_30s), rel=1e-5)


def test_sweeps_are_the_kernels_own(rows, session):
    moment = Moment.of_session(session)
    found = sweeps(moment.view("BTCUSDT").trades)
    market, constants = moment.run.arrays["market"][0], moment.run.arrays["constants"][0]
    large = found[found["qty_lots"] >= constants["large_ticklots"]]
    assert len(large) and market.whale_trade_id == large["id"][-1] and market.whale_usd == pytest.approx(
        large["qty_lots"][-1] / constants["ticklots_per_usd"])
    assert market.whale_sweeps == (found["qty_lots"] >= constants["whale_ticklots"]).sum()
    taken = rows[(rows["kind"] == R.TRADE) & (rows["bits"] & R.NOT_MARKET == 0)]
    assert found["qty_lots"].sum() == (taken["price_ticks"] * taken["qty_lots"]).sum() and found["hole"].sum() == len(taken)


def test_a_hole_in_the_ids_ends_a_sweep_and_a_print_off_the_market_does_not():
    def made(middle) -> list[int]:
        stream = Tape().wait(1)
        now = stream.now_ns
        stream.trade(1, 10, event_ns=now)
        middle(stream)
        stream.trade(1, 20, event_ns=now)
        return sweeps(folded(stream).view("BTCUSDT").trades)["hole"].tolist()

    def off_market(stream: Tape) -> None:
        stream.trade(1, 5)
        stream.rows[-1]["bits"] |= R.NOT_MARKET

    assert made(lambda stream: None) == [2] and made(off_market) == [2]
    assert made(lambda stream: setattr(stream, "trade_id", stream.trade_id + 3)) == [1, 1]
    assert made(lambda stream: stream.trade(-1, 5)) == [1, 2]


def test_chunks_are_invisible():
    stream = Tape().walk(75, seed=3)
    whole = every_answer(folded(stream))
    assert all(every_answer(folded(stream, chunk)) == whole for chunk in (1, 13, 500))


def absent(value, path: str = "") -> list[str]:
    """Return the places of values that are null without a reason beside them."""
    if isinstance(value, list):
        return [place for n, each in enumerate(value) for place in absent(each, f"{path}[{n}]")]
    if not isinstance(value, dict):
        return []
    bare = [path] if "value" in value and value["value"] is None and not value.get("reason") else []
    return bare + [place for name, each in value.items() for place in absent(each, f"{path}.{name}")]


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.9])
def test_what_is_missing_is_null_with_a_reason(session, share):
    answer = analyse_moment(Moment.of_session(session, at_share(session, share)), "BTCUSDT")
    assert absent(answer) == []
    if share < 0.01:
        flow, advice = answer["order_flow"], answer["recommendation"]
        assert flow["side"] is None and flow["signal"] is None and flow["score"] is None and "recorded" in flow["reason"]
        assert advice["direction"] == "HOLD" and advice["order_flow_signal"] is None and advice["reason"]
        assert answer["order_flow_trend"]["trend"] is None and answer["order_flow_trend"]["reason"]


@pytest.mark.parametrize("code", [R.LOST, R.GAP, R.STALE])
def test_a_broken_tape_takes_its_numbers_away_at_once(code):
    stream = Tape().walk(70)
    assert order_flow_signal(folded(stream).view("BTCUSDT"))["side"] is not None
    stream.feed(code, R.TRADE)
    answer = analyse_moment(folded(stream), "BTCUSDT")
    fields = answer["binance_enrichment"]
    assert answer["order_flow"]["side"] is None and answer["recommendation"]["direction"] == "HOLD"
    for name in ("micro_momentum", "price_velocity", "price_volatility", "volume_acceleration", "volume_surge", "price_trend_10s"):
        assert fields[name]["value"] is None and fields[name]["reason"], name


def test_every_number_of_a_signal_has_its_window_cover_and_count():
    flow = order_flow_signal(folded(Tape().walk(70)).view("BTCUSDT"))
    for part in flow["parts"].values():
        assert part["unit"] and {"n", "age_ms", "window_s"} <= set(part), part
    assert flow["parts"]["pressure"]["covered_s"] == 30.0


def test_moments_are_named_three_ways(session):
    first = session.manifest["first_recv_ns"]
    assert parse_at("+2.5s", session) == first + 2_500_000_000 and parse_at(str(first), session) == first and parse_at(None, session) is None
    iso = np.datetime64(first // 1000 * 1000 + 1_000, "ns").astype("datetime64[us]").item().isoformat() + "Z"
    assert parse_at(iso, session) == first // 1000 * 1000 + 1_000
    for bad in ("yesterday", "+x", "1e9", "+99999999s", "0" * 19, "2024-13-01", "9999-12-31T00:00:00", "-5", "+\u0661s", "+1e3s", "2024-08-08T00:00:00+99:00"):
        with pytest.raises(BadInput, match="time"):
            parse_at(bad, session)


SYMBOLS = ["BTCUSDT", "ETHUSDT", "BTCUSDc"]


@pytest.mark.parametrize("asked, found", [("BTCUSDT", "BTCUSDT"), ("btcusdt", "BTCUSDT"), ("Btc-Usdt", "BTCUSDT"), ("BTC/USDT", "BTCUSDT"),
                                          ("BTCUSDT.P", "BTCUSDT"), ("BTCUSDT-PERP", "BTCUSDT"), ("BTCUSDc", "BTCUSDc"), ("ethusd", "ETHUSDT"),
                                          ("ETHUSDm", "ETHUSDT"), ("ETHUSD.pro", "ETHUSDT"), ("#ETHUSD", "ETHUSDT"), ("ETHUSD_i", "ETHUSDT"),
                                          (" ETHUSDT ", "ETHUSDT"), ("BTCUSD", "BTCUSDT")])
def test_C33_one_symbol_map(asked, found):
    assert resolve(asked, SYMBOLS) == found


@pytest.mark.parametrize("asked", ["", "  ", "DOGE", "XAUUSD", "../BTCUSDT", "BTCUSDT/../x", "BTCUSDT\0", "BTC;USDT", "B" * 41, None, 5, "USDT"])
def test_an_unknown_symbol_is_refused_by_name(asked):
    with pytest.raises(BadInput, match="symbol"):
        resolve(asked, SYMBOLS)


def test_regression_a_lower_case_symbol_is_not_neutral():
    """The earlier enrichment asked with lower case a store keyed in upper case, and so always read NEUTRAL."""
    moment = folded(Tape().walk(70, lean=0.9, book=(200, 100)))
    asked = [analyse_moment(moment, name) for name in ("BTCUSDT", "btcusdt", "btcusdC", "BTCUSD.m")]
    assert asked[0]["order_flow"]["signal"] == "BULLISH"
    assert len({canonical(each) for each in asked}) == 1


def screen_of(made: dict) -> str:
    from rich.console import Console
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(screen_parts(made))
    return console.export_text()


def test_one_screen_has_order_flow_at_the_top(session):
    text = screen_of(analyse(session, "BTCUSDT", "+200s", "BUY"))
    lines = text.splitlines()
    assert lines[0].startswith("BTCUSDT") and next(n for n, line in enumerate(lines) if "Order flow" in line) <= 6
    assert text.index("Order flow") < text.index("Whales") < text.index("Market") and len(lines) <= 50


@pytest.mark.parametrize("at", ["+0.5s", "+5s", "+40s", "+100s", None])
@pytest.mark.parametrize("direction", [None, "SELL"])
def test_a_screen_says_all_that_is_known_and_why_the_rest_is_not(session, at, direction):
    made = analyse(session, "BTCUSDT", at, direction)
    text = " ".join(screen_of(made).split())
    assert made["recommendation"]["reason"] in text and all(each in text for each in made["recommendation"]["warnings"])
    for flow in made["order_flow_mtf"].values():
        assert all(part["reason"] in text for part in flow["parts"].values() if part["value"] is None)
        assert flow["score"] is None or f" {flow['score']:+.0f} " in text
    assert made["order_flow"]["called_reason"] in text and made["key"] in text
    assert all(name in text for name in made["binance_enrichment"] if name not in ("wicks", "binance_price"))
    assert "nan" not in text and "None" not in text


def test_small_values_are_not_shown_as_zero(session):
    made = analyse(session, "BTCUSDT")
    made["binance_enrichment"]["binance_price"]["value"] = 0.00001234
    made["binance_enrichment"]["micro_momentum"]["value"] = -1.6e-05
    text = screen_of(made)
    assert "1.234e-05" in text.splitlines()[0] and "-1.60e-05" in text


def test_a_screen_says_what_the_score_was_worth(session):
    made = analyse(session, "BTCUSDT")
    flow = made["order_flow"]
    share = {"value": 0.62, "n": 88, "ci95": [0.51, 0.71]}
    flow |= {"called": "probability", "calibration": {"judged_n": 240, "brier": 0.231, "horizon_s": 30}, "probability": share}
    text = " ".join(screen_of(made).split())
    assert "Of 88 calls of this size 62% [51%, 71%] went the score's way in 30 s (240 calls out of sample, Brier 0.231" in text
    flow["probability"] = {"value": None, "reason": "no call of this size was judged", "n": 0}
    assert "none was of this size" in screen_of(made)


def test_an_empty_stream_says_so():
    with pytest.raises(BadInput, match="no event yet"):
        Moment("live", [VENUE, BROKER]).view("BTCUSDT")


def test_an_answer_is_plain_json(session):
    answer = analyse(session, "BTCUSDT")
    assert json.loads(canonical(answer)) == answer
