"""The synthetic market: its files are exact, its null has no edge, its plants are where the labels say."""

import gzip
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadInput
from engine.instruments import scaled
from engine.measure.market_model import MarketConfig, simulate
from engine.measure.plants import Fault, FlowEffects, Rate, Void, Wall, Whale
from engine.measure.synthetic import generate

S = 1_000_000_000
PLANTS = (Whale(5.0, -1, 10.0), Whale(11.0, 1, 10.0, balanced=True), Wall(8.0, 1, 20.0, near_bps=20.0, duration_s=6.0),
          Void(15.0, -1, 0.1, 2.0, 6.0, 8.0), Void(15.0, 1, 0.0, 140.0, 150.0, 8.0),
          Fault("duplicate", 20.0, strength=2.0), Fault("gap", 22.0, strength=4.0), Fault("reorder", 26.0))
SHORT = MarketConfig(seed=7, duration_s=32.0, plants=PLANTS)


class Capture:
    """A generated capture, every line of it parsed."""

    def __init__(self, path: Path):
        lines = [line.split(" ", 1) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        self.recv_ns = [int(recv) for recv, _ in lines]
        self.messages = [json.loads(body) for _, body in lines]

    def of(self, stream: str) -> list[tuple[int, dict]]:
        return [(recv, m["data"]) for recv, m in zip(self.recv_ns, self.messages)
                if m.get("stream", "").endswith(stream)]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    made = generate(SHORT, tmp_path_factory.mktemp("short"))
    return made, Capture(made.capture)


def labelled(made, kind: str) -> dict:
    return next(label for label in made.planted if label["kind"] == kind)


def replayed(capture: Capture):
    """Yield (recv_ns, frame, bids, asks) after each depth message of an unbroken chain, by the venue's rules."""
    bids, asks, waiting, last = {}, {}, [], None

    def put(frame, names):
        for book, name in zip((bids, asks), names):
            for price, qty in frame[name]:
                if lots := scaled(qty, 3):
                    book[scaled(price, 1)] = lots
                else:
                    book.pop(scaled(price, 1), None)

    for recv, message in zip(capture.recv_ns, capture.messages):
        if "lastUpdateId" in message:
            bids.clear(), asks.clear()
            put(message, ("bids", "asks"))
            level = message["lastUpdateId"]
            waiting = [(at, frame) for at, frame in waiting if frame["u"] >= level]
            assert waiting[0][1]["U"] <= level <= waiting[0][1]["u"]
            last = waiting[0][1]["pu"]
        elif message["stream"].endswith("@depth@0ms"):
            waiting.append((recv, message["data"]))
        while last is not None and waiting:
            at, frame = waiting[0]
            if frame["pu"] != last and frame["u"] <= last:
                waiting.pop(0)
            elif frame["pu"] != last:
                last = None
            else:
                waiting.pop(0)
                put(frame, "ba")
                last = frame["u"]
                yield at, frame, bids, asks


def test_equal_configurations_give_equal_bytes(short, tmp_path):
    made, _ = short
    again = generate(SHORT, tmp_path)
    for name in ("capture", "ticks", "labels"):
        assert getattr(made, name).read_bytes() == getattr(again, name).read_bytes()
    assert made.capture.read_bytes()[4:8] == made.ticks.read_bytes()[4:8] == bytes(4), "no time of writing in the file"
    assert json.loads(made.labels.read_text())["labels"] == made.planted


def test_another_seed_gives_another_market(short, tmp_path):
    made, _ = short
    other = generate(replace(SHORT, seed=8), tmp_path)
    assert made.capture.read_bytes() != other.capture.read_bytes()
    assert made.ticks.read_bytes() != other.ticks.read_bytes()


def test_book_rebuilt_from_the_capture_has_the_best_quote_of_the_same_update_id(tmp_path):
    capture = Capture(generate(MarketConfig(seed=3, duration_s=40.0), tmp_path).capture)
    best = {d["u"]: tuple(scaled(d[n], k) for n, k in zip("bBaA", (1, 3, 1, 3))) for _, d in capture.of("@bookTicker")}
    equal = applied = 0
    for _, frame, bids, asks in replayed(capture):
        applied += 1
        top = max(bids), bids[max(bids)], min(asks), asks[min(asks)]
        assert top[0] < top[2]
        if frame["u"] in best:
            assert top == best[frame["u"]]
            equal += 1
    frames = capture.of("@depth@0ms")
    assert applied == len(frames) - 9         # the ones before the snapshot are older than it
    assert equal > 0.9 * applied
    assert all(frame["U"] > frame["pu"] and frame["u"] >= frame["U"] for _, frame in frames)
    assert [frame["pu"] for _, frame in frames[1:]] == [frame["u"] for _, frame in frames[:-1]]
    assert any(frame["U"] != frame["pu"] + 1 for _, frame in frames), "futures ids have holes"


def test_snapshot_is_deep_and_in_the_middle_of_the_stream(short):
    _, capture = short
    place = next(i for i, m in enumerate(capture.messages) if "lastUpdateId" in m)
    before = [m for m in capture.messages[:place] if m["stream"].endswith("@depth@0ms")]
    body = capture.messages[place]
    assert len(before) >= 5 and before[-1]["data"]["u"] > body["lastUpdateId"]
    for side in ("bids", "asks"):
        prices = [scaled(price, 1) for price, _ in body[side]]
        assert len(prices) == 1000 and abs(prices[-1] - prices[0]) > 0.01 * prices[0]
        assert sorted(prices, reverse=side == "bids") == prices


def test_texts_ids_and_stamps_are_the_venues(short):
    _, capture = short
    price, qty = re.compile(r"\d+\.\d0"), re.compile(r"\d+\.\d{3}")
    trades = capture.of("@trade")
    assert [d["t"] for _, d in trades] == list(range(trades[0][1]["t"], trades[0][1]["t"] + len(trades)))
    assert all(price.fullmatch(d["p"]) and qty.fullmatch(d["q"]) for _, d in trades)
    assert all(d["X"] == "MARKET" and d["s"] == "BTCUSDT" for _, d in trades)
    for _, frame in capture.of("@depth@0ms"):
        assert all(price.fullmatch(p) and qty.fullmatch(q) for p, q in frame["b"] + frame["a"])
        assert len({p for p, _ in frame["b"]}) == len(frame["b"])
    assert all(late > early for early, late in zip(capture.recv_ns, capture.recv_ns[1:]))
    assert all(recv // 1_000_000 >= d["E"] >= d["T"] for recv, d in trades)
    best = [d["u"] for _, d in capture.of("@bookTicker")]
    assert best == sorted(set(best))


def test_a_print_meets_the_quote_before_it(short):
    _, capture = short
    quote = None
    for message in capture.messages:
        stream, data = message.get("stream", ""), message.get("data")
        if stream.endswith("@bookTicker"):
            quote = data
        elif stream.endswith("@trade"):
            assert data["p"] == (quote["b"] if data["m"] else quote["a"])


def test_broker_is_the_venue_a_lag_ago_plus_basis(tmp_path):
    config = MarketConfig(seed=5, duration_s=60.0, broker_lag_ms=250.0, basis_wander_bps_per_sqrt_s=0.0,
                          broker_stale_per_hour=600.0)
    made = generate(config, tmp_path)
    quotes = Capture(made.capture).of("@bookTicker")
    recv_ns = np.array([recv for recv, _ in quotes])
    mid = np.array([5 * (scaled(d["b"], 1) + scaled(d["a"], 1)) for _, d in quotes])
    body = json.loads(gzip.decompress(made.ticks.read_bytes()), parse_float=str)
    ticks = body["ticks"]
    at_ns = np.array([tick["collected_msc"] for tick in ticks]) * 1_000_000
    bid, ask = (np.array([scaled(tick[name], 2) for tick in ticks]) for name in ("bid", "ask"))
    seen = np.searchsorted(recv_ns, at_ns - 250_000_000, side="right") - 1
    assert set((bid + ask) // 2 - mid[seen]) == {1800}         # 3 bps of 60,000.00 in steps of 0.01
    assert set(ask - bid) == {1500}
    ahead_ms = np.array([tick["time_msc"] - tick["collected_msc"] for tick in ticks])
    assert 7_190_000 < ahead_ms.min() and ahead_ms.max() < 7_200_000
    assert body["summary"]["total_ticks"] == len(ticks) == made.counts["quote"]
    spells = [label for label in made.planted if label["kind"] == "stale_quotes"]
    assert spells and not any(((at_ns >= s["start_ns"]) & (at_ns < s["end_ns"])).any() for s in spells)


@cache
def null_path(seed: int, sigma_bps: float = 0.8):
    return simulate(MarketConfig(seed=seed, duration_s=900.0, sigma_bps_per_sqrt_s=sigma_bps), FlowEffects())


def scores(pairs) -> float:
    """Return the mean correlation of (past, future) pairs over seeds, in standard errors of no correlation at all."""
    values = [np.corrcoef(past, future)[0, 1] * np.sqrt(len(past)) for past, future in pairs]
    return float(np.sum(values) / np.sqrt(len(values)))


def test_flow_is_predictable_and_price_is_not():
    seen = {"sign": [], "step after sign": [], "step after cvd": [], "tick after tick": []}
    for seed in range(6):
        path = null_path(seed)
        mid = path.bid_ticks + path.ask_ticks
        rows = np.flatnonzero(path.side)
        side, step = path.side[rows], mid[rows] - mid[rows - 1]
        cvd = np.cumsum(side * path.qty_lots[rows])
        seen["sign"].append((side[:-1], side[1:]))
        seen["step after sign"].append((side[:-1], step[1:]))
        seen["step after cvd"].append(((cvd[50:] - cvd[:-50])[:-1], step[51:]))
        quiet = null_path(seed, 0.05)                          # steps of half a tick, where rounding prices would show
        moves = np.diff(quiet.bid_ticks + quiet.ask_ticks)
        seen["tick after tick"].append((moves[:-1], moves[1:]))
    assert scores(seen["sign"]) > 50
    for name in ("step after sign", "step after cvd", "tick after tick"):
        assert abs(scores(seen[name])) < 3, name


def test_impact_at_the_time_is_real_and_volatility_is_as_set():
    for seed in range(3):
        path = null_path(seed)
        second = (path.time_ns - path.time_ns[0]) // S
        flow = np.bincount(second, path.side * path.qty_lots, 901)
        mid = (path.bid_ticks + path.ask_ticks) / 2
        move = np.bincount(second, np.diff(mid, prepend=mid[0]), 901)
        assert np.corrcoef(flow, move)[0, 1] > 0.4
        assert 0.8 < move.std() / 48.0 < 1.25                  # 0.8 bps of 600,000 ticks; activity swings about it


def broker_gain(tmp_path: Path, lag_ms: float, latency_ms: float) -> float:
    """Return the mean of what following large CVD earns on the broker's mid in 5 s, in standard errors."""
    gains = []
    for seed in range(4):
        config = MarketConfig(seed=seed, duration_s=300.0, broker_lag_ms=lag_ms)
        made = generate(config, tmp_path / f"{lag_ms}-{seed}")
        trades = Capture(made.capture).of("@trade")
        at = np.array([recv for recv, _ in trades])
        cvd = np.cumsum([scaled(d["q"], 3) * (-1 if d["m"] else 1) for _, d in trades])
        ticks = json.loads(gzip.decompress(made.ticks.read_bytes()))["ticks"]
        quoted = np.array([tick["collected_msc"] for tick in ticks]) * 1_000_000
        mid = np.array([tick["bid"] + tick["ask"] for tick in ticks]) / 2
        times = np.arange(at[0] + 10 * S, at[-1] - 12 * S, 2 * S)
        flow = cvd[np.searchsorted(at, times) - 1] - cvd[np.searchsorted(at, times - 2 * S) - 1]
        fills = [mid[np.searchsorted(quoted, times + round(latency_ms * 1e6) + after)] for after in (0, 2 * S)]
        large = np.abs(flow) > np.median(np.abs(flow))
        gains += (np.sign(flow) * (fills[1] - fills[0]))[large].tolist()
    return float(np.mean(gains) / np.std(gains) * np.sqrt(len(gains)))


@pytest.mark.slow
def test_flow_earns_nothing_at_the_broker_unless_its_quote_is_staler_than_the_exit_is_slow(tmp_path):
    assert abs(broker_gain(tmp_path, 100.0, 150.0)) < 3
    assert broker_gain(tmp_path, 2_000.0, 0.0) > 3


def test_whale_is_one_sweep_of_the_labelled_notional(short):
    made, capture = short
    label = labelled(made, "whale")
    inside = [(recv, d) for recv, d in capture.of("@trade") if label["start_ns"] <= recv <= label["end_ns"]]
    assert [d["t"] for _, d in inside] == list(range(label["first_trade_id"], label["last_trade_id"] + 1))
    assert len(inside) == 8 and len({d["T"] for _, d in inside}) == 1 and all(d["m"] for _, d in inside)
    prices = [scaled(d["p"], 1) for _, d in inside]
    assert prices == sorted(prices, reverse=True)
    assert label["price"] == inside[0][1]["p"] and label["price_to"] == inside[-1][1]["p"]
    notional = sum(price * scaled(d["q"], 3) for price, (_, d) in zip(prices, inside)) / 10_000
    assert notional == pytest.approx(label["notional_usd"])
    lots = sum(scaled(d["q"], 3) for _, d in inside)
    assert lots == round(10 * SHORT.size_q999_lots)


def test_balanced_decoy_has_the_notional_and_no_side(short):
    made, capture = short
    label = labelled(made, "balanced_sweep")
    assert label["decoy"]
    inside = [d for recv, d in capture.of("@trade") if label["start_ns"] <= recv <= label["end_ns"]]
    assert sum(scaled(d["q"], 3) * (-1 if d["m"] else 1) for d in inside) == 0
    assert label["notional_usd"] == pytest.approx(labelled(made, "whale")["notional_usd"], rel=0.01)


def depth_by_frame(capture: Capture, label: dict) -> dict[int, int]:
    """Return the lots within a label's prices on its side after each frame, by receive time."""
    low, high = sorted(scaled(label[name], 1) for name in ("price", "price_to"))
    return {recv: sum(lots for price, lots in (bids if label["side"] > 0 else asks).items() if low <= price <= high)
            for recv, _, bids, asks in replayed(capture)}


def test_void_is_thin_in_its_interval_and_nowhere_else(tmp_path):
    config = MarketConfig(seed=11, duration_s=30.0, plants=(Void(12.0, 1, 0.1, 4.0, 9.0, 8.0),))
    made = generate(config, tmp_path / "void")
    label = labelled(made, "void")
    thin = depth_by_frame(Capture(made.capture), label)
    usual = depth_by_frame(Capture(generate(replace(config, plants=()), tmp_path / "bare").capture), label)
    assert thin.keys() == usual.keys() and not label["decoy"]
    for recv in thin:
        if label["start_ns"] <= recv < label["end_ns"]:
            assert thin[recv] == pytest.approx(0.1 * usual[recv], rel=0.02)
        else:
            assert thin[recv] == usual[recv] > 0


def test_void_beyond_the_snapshot_is_a_decoy(short):
    made, capture = short
    label = labelled(made, "void_outside_coverage")
    snapshot = next(m for m in capture.messages if "lastUpdateId" in m)
    assert label["decoy"] and scaled(label["price"], 1) < scaled(snapshot["bids"][-1][0], 1)


def test_wall_stands_for_its_interval_and_is_pulled(short):
    made, capture = short
    label = labelled(made, "wall")
    price, lots = scaled(label["price"], 1), scaled(label["quantity"], 3)
    assert label["pulled"] and not label["reached"]
    stands = {recv: bids.get(price) == lots for recv, _, bids, _ in replayed(capture)}
    during = [here for recv, here in stands.items() if label["start_ns"] <= recv < label["end_ns"]]
    around = [here for recv, here in stands.items() if not label["start_ns"] <= recv < label["end_ns"]]
    assert len(during) > 50 and all(during) and not any(around)


def test_faults_break_the_chain_where_labelled_and_a_snapshot_mends_it(short):
    made, capture = short
    frames = capture.of("@depth@0ms")
    breaks = [recv for (_, before), (recv, frame) in zip(frames, frames[1:]) if frame["pu"] != before["u"]]
    gap, duplicate, reorder = (labelled(made, kind) for kind in ("gap", "duplicate", "reorder"))
    for label, count in ((duplicate, 2), (gap, 1), (reorder, 3)):
        found = [recv for recv in breaks if label["start_ns"] <= recv <= label["end_ns"]]
        assert len(found) == count, label
    assert len(breaks) == 6
    assert made.counts["depth"] == 320 + 2 - 4
    snapshots = [recv for recv, m in zip(capture.recv_ns, capture.messages) if "lastUpdateId" in m]
    assert len(snapshots) == 3 and snapshots[1] <= gap["end_ns"] and snapshots[2] <= reorder["end_ns"]
    whole = [recv for recv, *_ in replayed(capture)]
    assert max(whole) > reorder["end_ns"]
    assert not any(gap["start_ns"] <= recv < snapshots[1] - S for recv in whole)


def test_clock_jump_shifts_receive_times_and_nothing_else(tmp_path):
    config = MarketConfig(seed=6, duration_s=12.0, plants=(Fault("clock_jump", 5.0, strength=-400.0, duration_s=3.0),))
    jumped = Capture(generate(config, tmp_path / "jump").capture)
    steady = Capture(generate(replace(config, plants=()), tmp_path / "steady").capture)
    assert jumped.messages == steady.messages
    shift = np.array(jumped.recv_ns) - np.array(steady.recv_ns)
    true_s = (np.array(steady.recv_ns) - config.start_ns) / S
    inside = (true_s >= 5.0) & (true_s < 8.0)
    assert set(shift[inside]) == {-400_000_000} and not shift[~inside].any()


def test_rates_spread_plants_over_the_session(tmp_path):
    rates = (Rate(Whale(), 240.0), Rate(Wall(duration_s=5.0), 60.0, from_s=30.0))
    config = MarketConfig(seed=1, duration_s=120.0, rates=rates)
    made = generate(config, tmp_path)
    whales = [label for label in made.planted if label["kind"] == "whale"]
    assert len(whales) == 8 and {label["side"] for label in whales} == {1, -1}
    assert [label for label in made.planted if label["kind"] == "wall"][0]["start_ns"] >= config.start_ns + 30 * S


def test_files_already_there_are_not_written_over(tmp_path):
    (tmp_path / "btcusdt.gz").write_bytes(b"mine")
    with pytest.raises(BadInput, match="btcusdt.gz already exists"):
        generate(MarketConfig(duration_s=5.0), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["btcusdt.gz"]


def test_importer_takes_the_generated_files_as_one_session(short, tmp_path):
    importer = pytest.importorskip("engine.record.importer")
    made, _ = short
    result = importer.import_files([made.capture, made.ticks], tmp_path)
    assert {name: result["messages"][name] for name in ("trade", "depth", "best", "snapshot")} == {
        name: made.counts[name] for name in ("trade", "depth", "best", "snapshot")}
    assert result["rows"]["quotes"] == made.counts["quote"] and not result["skipped"]
    assert len(list((tmp_path / "sessions").iterdir())) == 1
