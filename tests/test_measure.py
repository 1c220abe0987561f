"""What `measure` says: complete, consistent, deterministic, and modest where it has little to go by."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from markets import MS, NULL_ENTRIES, Job, measured, null_market, often, plan_of, recorded
from replays import fails
from scipy.stats import kstest

from engine.errors import BadInput
from engine.kernel.records import MISSING
from engine.measure import paths as P
from engine.measure.inference import Interval
from engine.measure.lead import lead_ns
from engine.measure.measure import Options, measure
from engine.measure.outcomes import CLASS_NAMES, epsilon_r
from engine.measure.plants import Rate, Void, Whale
from engine.measure.verdict import _lacking, _verdict
from engine.plans import overlapping
from engine.record.store import Session
from engine.trades import TradePlan, read_trades_csv, write_trades_csv

ENTRIES = "every=6s,side=both,sl=6bps,tp=9bps,max=40s,start=65s"
S = 1_000_000_000
FEW = Options(draws=199, attribution=False)

# the part of the design every later version keeps
KEYS = {
    "sessions",
    "trades",
    "baseline",
    "quotes",
    "epsilon_r",
    "rules",
    "attribution",
    "configurations_tried",
    "coverage",
    "report",
}
RULE_KEYS = {
    "preset",
    "fired",
    "saved",
    "turned",
    "improved",
    "harmed",
    "neutral",
    "too_late",
    "not_fired",
    "delta_r",
    "excess_r",
    "count_excess",
    "stale_quote_r",
    "lead_s",
    "minimum_detectable_r",
    "verdict",
}
PART_KEYS = {
    "delta_r": {"mean", "ci95"},
    "excess_r": {"mean", "ci95", "p"},
    "count_excess": {"mean", "ci95", "p"},
    "lead_s": {"median", "iqr"},
}
DOCUMENTED = {"symbols", "from_ns", "to_ns", "open_at_end", "baseline_r", "latency_ms", "lead_ms"}
DOCUMENTED_OF_RULES = {"placebo_r", "matched_r", "twin_r", "sentence"}
VERDICTS = {"insufficient", "indistinguishable", "better", "worse"}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> list:
    """Return two recorded markets with whales and voids in them."""
    folder = tmp_path_factory.mktemp("measure")
    rates = (
        Rate(Whale(strength=30.0, drift_bps=8.0), 60.0, 70.0),
        Rate(Void(strength=0.05, drift_bps=6.0), 60.0, 70.0),
    )
    return [
        recorded(null_market(seed, duration_s=300.0, rates=rates), folder, f"market-{seed}")[0] for seed in (21, 22)
    ]


@pytest.fixture(scope="module")
def everything(sessions, tmp_path_factory) -> tuple[dict, dict]:
    """Return both sessions measured with every rule."""
    return measure(
        [plan_of(session, Job((), ENTRIES, "all")) for session in sessions],
        tmp_path_factory.mktemp("all"),
        Options(draws=199),
    )


def whale_plan(session, changes: tuple[str, ...] = ()):
    return plan_of(session, Job((), ENTRIES, "whale", changes))


def test_the_object_has_every_key_and_is_plain_json(everything):
    result, _ = everything
    assert KEYS | DOCUMENTED <= set(result)
    assert len(result["rules"]) == 8
    for rule in result["rules"].values():
        assert RULE_KEYS | DOCUMENTED_OF_RULES <= set(rule)
        for part, keys in PART_KEYS.items():
            assert keys <= set(rule[part])
        assert rule["verdict"] in VERDICTS
    assert {"solo", "leave_one_out", "shapley"} <= set(result["attribution"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["quotes"] == "recorded" and result["baseline"] == "mechanical" and 0 < result["coverage"] <= 1


def test_classes_are_exclusive_and_exhaustive(everything):
    result, detail = everything
    trades = detail["trades"]
    assert result["trades"] == len(trades) > 100
    assert any(rule["fired"] for rule in result["rules"].values())
    for name, rule in result["rules"].items():
        counted = {kind: int((detail["classes"][name] == code).sum()) for code, kind in enumerate(CLASS_NAMES)}
        assert sum(counted.values()) == len(trades)
        assert {kind: rule[kind] for kind in counted} == counted
        assert rule["saved"] + rule["improved"] + rule["harmed"] + rule["neutral"] + rule["too_late"] + rule[
            "not_fired"
        ] == len(trades)
        assert rule["harmed"] == rule["cut_winner"] + rule["flipped"] + rule["worsened"]
        assert rule["turned"] <= rule["saved"]
        assert rule["fired"] == len(trades) - rule["not_fired"] - rule["too_late"]


def test_the_figures_of_a_rule_agree_with_each_other(everything):
    result, detail = everything
    trades, epsilon = detail["trades"], epsilon_r(detail["trades"])
    for name, rule in result["rules"].items():
        policy, change = detail["policies"][name], detail["delta_r"][name]
        assert np.isfinite(policy.y).all()
        untouched = ~policy.fired
        assert policy.y[untouched] == pytest.approx(trades.y[untouched], abs=1e-12) and not change[untouched].any()
        assert rule["delta_r"]["mean"] == pytest.approx(change.mean()) and rule["delta_r"]["total"] == pytest.approx(
            change.sum()
        )
        excess = rule["delta_r"]["mean"] - rule["stale_quote_r"] - rule["placebo_r"]["mean"]
        assert rule["excess_r"]["mean"] == pytest.approx(excess, abs=1e-9)
        kinds = detail["classes"][name]
        assert (change[kinds == CLASS_NAMES.index("saved")] >= epsilon).all() and (
            trades.y[kinds == CLASS_NAMES.index("saved")] < 0
        ).all()
        assert rule["excess_r"]["p_holm"] >= rule["excess_r"]["p"]
        assert (
            f"fired on {rule['fired']}; saved {rule['saved']}" in rule["sentence"]
            and f"harmed {rule['harmed']}." in rule["sentence"]
        )
    credit = result["attribution"]
    assert sum(credit["shapley"].values()) == pytest.approx(credit["value_r"])
    assert {
        name: rule["delta_r"]["total"] for name, rule in result["rules"].items() if rule["kind"] == "flow"
    } == pytest.approx(credit["solo"])


def test_several_sessions_are_the_sum_of_their_parts(sessions, everything, tmp_path):
    both, _ = everything
    alone = [measure([whale_plan(session)], tmp_path / session.id, FEW)[0] for session in sessions]
    assert both["sessions"] == [session.id for session in sessions]
    assert both["trades"] == sum(part["trades"] for part in alone)
    for kind in ("fired", "saved", "harmed", "neutral", "not_fired"):
        assert both["rules"]["whale"][kind] == sum(part["rules"]["whale"][kind] for part in alone)
    assert both["baseline_r"] * both["trades"] == pytest.approx(
        sum(part["baseline_r"] * part["trades"] for part in alone)
    )
    assert [part["attribution"] for part in alone] == [None, None]


def test_a_small_sample_is_called_insufficient(sessions, tmp_path):
    result, _ = measure([whale_plan(sessions[0])], tmp_path, FEW)
    assert result["trades"] < 100
    rule = result["rules"]["whale"]
    assert (
        rule["verdict"] == "insufficient"
        and f"Insufficient to distinguish from chance: {result['trades']} of the 100 trades" in rule["sentence"]
    )


@pytest.mark.parametrize("trades, fired, groups, said", [
    (454, 7, 13, "7 of the 10 exits that are needed"),
    (99, 12, 3, "99 of the 100 trades that are needed, 3 of the 8 separate groups of trades that are needed")])
def test_only_what_there_is_too_little_of_is_named(trades, fired, groups, said):
    study = SimpleNamespace(trades=range(trades), excess=interval(0.0, 0.1, groups))
    assert _lacking(study, {"fired": fired}) == said


def test_the_same_seed_says_the_same_and_another_only_draws_anew(sessions, tmp_path):
    runs = [
        measure([whale_plan(sessions[0])], tmp_path / str(n), replace(FEW, seed=seed))[0]
        for n, seed in enumerate((1, 1, 2))
    ]
    assert json.dumps(runs[0]) == json.dumps(runs[1])
    first, other = runs[0]["rules"]["whale"], runs[2]["rules"]["whale"]
    assert first["delta_r"]["mean"] == other["delta_r"]["mean"] and first["saved"] == other["saved"]
    assert first["placebo_r"]["mean"] != other["placebo_r"]["mean"]


def test_every_configuration_is_counted_once(sessions, tmp_path):
    plain = [measure([whale_plan(sessions[0])], tmp_path, FEW)[0]["configurations_tried"] for _ in range(2)]
    changed = measure([whale_plan(sessions[0], ("whale.fresh_ms=1500",))], tmp_path, FEW)[0]
    assert plain == [1, 1] and changed["configurations_tried"] == 2
    assert "2 configurations tried" in changed["rules"]["whale"]["sentence"]


def test_trades_from_a_file_give_what_entries_give(sessions, tmp_path):
    plan = whale_plan(sessions[0])
    write_trades_csv(tmp_path / "trades.csv", plan.trades)
    read = replace(plan, trades=read_trades_csv(tmp_path / "trades.csv"))
    made, loaded = (measure([each], tmp_path / name, FEW)[0] for each, name in ((plan, "made"), (read, "read")))
    assert json.dumps(made) == json.dumps(loaded)


def test_trades_the_recording_ends_before_are_left_out_and_counted(sessions, tmp_path):
    plan = whale_plan(sessions[0])
    last_ns = plan.session.manifest["last_recv_ns"]
    held = [
        TradePlan(ticket=9_001, symbol="BTCUSD", side=1, volume="1.0", open_ns=last_ns - 20 * S, sl_bps=900),
        TradePlan(ticket=9_002, symbol="BTCUSD", side=-1, volume="1.0", open_ns=last_ns - 30 * S, max_hold_ns=5 * S),
    ]
    before, after = (
        measure([replace(plan, trades=trades)], tmp_path / str(len(trades)), FEW)
        for trades in (plan.trades, plan.trades + held)
    )
    assert after[0]["open_at_end"] == before[0]["open_at_end"] + 2, (
        "one is still open, the other had no stop and so no R"
    )
    assert after[0]["trades"] == before[0]["trades"] and not np.isin(after[1]["trades"].ticket, (9_001, 9_002)).any()
    assert after[0]["rules"]["whale"]["delta_r"] == before[0]["rules"]["whale"]["delta_r"]
    with pytest.raises(BadInput, match="no trade ended within the recordings"):
        measure([replace(plan, trades=held[:1])], tmp_path / "none", FEW)


def test_a_rule_that_never_fires_is_no_better_and_no_worse(sessions, tmp_path):
    never = ("whale.large_usd=9e14", "whale.whale_usd=9e14")
    result, _ = measure([whale_plan(session, never) for session in sessions], tmp_path, FEW)
    rule = result["rules"]["whale"]
    assert rule["fired"] == rule["too_late"] == 0 and rule["not_fired"] == result["trades"]
    assert (
        rule["delta_r"]["mean"] == 0.0
        and rule["excess_r"]["p"] == 1.0
        and rule["lead_s"]["median"] is None
        and rule["precision"] is None
    )
    assert rule["verdict"] == "insufficient" and rule["sentence"].endswith(
        "It never acted, so nothing can be said of it."
    )
    json.dumps(result, allow_nan=False)


def test_a_session_is_measured_once_and_the_same_time_of_a_market_is_told(sessions, tmp_path, capsys):
    first = sessions[0]
    again = shutil.copytree(first.path, tmp_path / "sessions" / "again")
    (said,) = overlapping([first, Session(again)])
    assert "both hold BTCUSDT for the same 300 s: trades in them count double" in said
    for command in (["measure"], ["sweep", "--grid", "whale.fresh_ms=500,1000"]):
        text = fails(capsys, *command, str(first.path), str(first.path / "."), "--entries", ENTRIES, "--data", str(tmp_path))
        assert "is named twice" in text


def test_a_report_is_not_written_into_a_folder_there_is_not(sessions, tmp_path, capsys):
    place = tmp_path / "typo" / "report.html"
    assert f"{place.parent} is no folder" in fails(capsys, "measure", str(sessions[0].path), "--entries", ENTRIES, "--data", str(tmp_path),
                                                   "--report", str(place))
    assert not place.parent.exists()


def test_without_a_rule_that_acts_there_is_nothing_to_measure(sessions, tmp_path):
    with pytest.raises(BadInput, match="^no rule acts: name the rules to measure with --rules$"):
        measure([plan_of(sessions[0], Job((), ENTRIES, "whale=shadow"))], tmp_path, FEW)
    assert list(tmp_path.iterdir()) == [], "nothing may be written"


# verdicts


def interval(low: float, high: float, clusters: int = 40) -> Interval:
    return Interval((low + high) / 2, low, high, low, high, (high - low) / 4, (high - low) * 0.7, clusters, "blocks")


GOOD = {
    "trades": 400,
    "fired": 120,
    "excess": (0.02, 0.08),
    "clusters": 40,
    "twin": (0.01, 0.05),
    "matched": 0.01,
    "p": 0.002,
}


@pytest.mark.parametrize(
    "change, said",
    [
        ({}, "better"),
        ({"trades": 99}, "insufficient"),
        ({"trades": 100}, "better"),
        ({"fired": 9}, "insufficient"),
        ({"fired": 10}, "better"),
        ({"clusters": 7}, "insufficient"),
        ({"clusters": 8}, "better"),
        ({"p": 0.051}, "indistinguishable"),
        ({"p": 0.05}, "better"),
        ({"excess": (-0.01, 0.08)}, "indistinguishable"),
        ({"matched": 0.06}, "indistinguishable"),
        ({"twin": (-0.01, 0.05)}, "indistinguishable"),
        ({"excess": (-0.08, -0.02)}, "worse"),
        ({"excess": (-0.08, -0.02), "p": 0.2}, "indistinguishable"),
        ({"excess": (-0.08, -0.02), "matched": 0.9, "twin": (-0.1, -0.02)}, "worse"),
        ({"excess": (-0.08, -0.02), "fired": 3}, "insufficient"),
        ({"excess": (math.nan, math.nan)}, "indistinguishable"),
        ({"twin": (math.nan, math.nan)}, "indistinguishable"),
        ({"matched": math.nan}, "indistinguishable"),
    ],
)
def test_a_verdict_needs_every_part(change, said):
    case = {**GOOD, **change}
    study = SimpleNamespace(
        trades=range(case["trades"]),
        excess=interval(*case["excess"], case["clusters"]),
        over_twin=interval(*case["twin"], case["clusters"]),
        matched=SimpleNamespace(r_p_greater=case["matched"]),
    )
    assert _verdict(study, {"fired": case["fired"]}, case["p"]) == said


# lead and paths


def walk(seed: int, rows: int) -> np.ndarray:
    return 2 * (6_000_000 + np.cumsum(np.random.default_rng(seed).choice((-1, 1), rows)))


@pytest.mark.parametrize("lag_ms", [0, 50, 300, 1_975])
def test_a_known_lead_is_recovered(lag_ms):
    times, mids = np.arange(20_000) * 10 * MS, walk(lag_ms, 20_000)
    at = np.arange(3_000, 199_000, 170) * MS
    seen = mids[np.searchsorted(times, at - lag_ms * MS, "right") - 1] // 2
    assert abs(lead_ns(times, mids, P.Path(at, seen - 5, seen + 5)) - lag_ms * MS) <= 25 * MS


def test_a_lead_needs_changes():
    times, mids = np.arange(5_000) * 10 * MS, walk(1, 5_000)
    few = np.arange(150) * 300 * MS
    assert lead_ns(times, mids, P.Path(few, mids[:150], mids[:150] + 2)) is None
    still = np.full(1_000, 6_000_000)
    assert lead_ns(times, mids, P.Path(np.arange(1_000) * 50 * MS, still, still + 2)) is None
    assert lead_ns(times[:0], mids[:0], P.Path(few[:0], few[:0], few[:0])) is None


def plain_exit(path: P.Path, side: int, start: int, stop: int, take: int, deadline: int) -> tuple[int, int, int]:
    """Return time, price and end of one exit, said as the methodology says it."""
    last = (MISSING, MISSING, P.END_OPEN)
    for at, bid, ask in zip(path.recv_ns.tolist(), path.bid_ticks.tolist(), path.ask_ticks.tolist()):
        if at < start:
            continue
        price = bid if side > 0 else ask
        last = (at, price, P.END_OPEN)
        if stop != MISSING and (price <= stop if side > 0 else price >= stop):
            return at, price, P.END_STOP
        if take != MISSING and (price >= take if side > 0 else price <= take):
            return at, take, P.END_TAKE
        if deadline != MISSING and at >= deadline:
            return at, price, P.END_TIME
    return last


def test_exits_are_those_of_a_plain_reading():
    draw = np.random.default_rng(8)
    for _ in range(40):
        n = 60
        bid = 1_000 + np.cumsum(draw.integers(-3, 4, n))
        path = P.Path(np.cumsum(draw.integers(1, 4, n)), bid, bid + draw.integers(0, 3, n))
        sides, start = draw.choice((-1, 1), 8), draw.integers(0, 60, 8)
        stops = np.where(draw.random(8) < 0.2, MISSING, 1_000 - sides * draw.integers(1, 12, 8))
        takes = np.where(draw.random(8) < 0.2, MISSING, 1_000 + sides * draw.integers(1, 12, 8))
        ends = np.where(draw.random(8) < 0.3, MISSING, start + draw.integers(0, 80, 8))
        got = P.simulate_exits(path, sides, start, stops, takes, ends)
        for i in range(8):
            expected = plain_exit(path, int(sides[i]), int(start[i]), int(stops[i]), int(takes[i]), int(ends[i]))
            assert tuple(int(column[i]) for column in got) == expected
        best, worst = P.extremes(path, sides, np.full(8, 1_000), start, start + 20)
        price, at = P.price_at(path, sides, start)
        for i in range(8):
            inside = (path.recv_ns >= start[i]) & (path.recv_ns <= start[i] + 20)
            gains = sides[i] * ((path.bid_ticks if sides[i] > 0 else path.ask_ticks)[inside] - 1_000)
            assert (best[i], worst[i]) == ((gains.max(), gains.min()) if inside.any() else (MISSING, MISSING))
            after = np.flatnonzero(path.recv_ns >= start[i])
            assert at[i] == (path.recv_ns[after[0]] if len(after) else MISSING)
            assert price[i] == (
                (path.bid_ticks if sides[i] > 0 else path.ask_ticks)[after[0]] if len(after) else MISSING
            )


# the ruler in small; the slow suite has the whole


@pytest.mark.slow
def test_twelve_markets_without_an_edge():
    seeds = range(1, 13)
    print(f"null seeds {list(seeds)}")
    runs = [
        measured(
            Job((null_market(seed, duration_s=240.0),), NULL_ENTRIES, "order_flow", often("order_flow"), options=FEW)
        )[0]["rules"]["order_flow"]
        for seed in seeds
    ]
    p = np.array([run["excess_r"]["p"] for run in runs])
    excess = np.array([run["excess_r"]["mean"] for run in runs])
    assert (p <= 0.05).sum() <= 3 and kstest(p, "uniform").pvalue > 0.001
    assert abs(excess.mean()) <= 4 * excess.std(ddof=1) / math.sqrt(len(runs))
    assert {run["verdict"] for run in runs} == {"insufficient"} and not any(run["stale_quote_r"] for run in runs)


def test_planted_skill_is_seen(tmp_path: Path):
    whales = Rate(Whale(strength=30.0, drift_bps=8.0, drift_s=20.0), 120.0, 70.0)
    markets = tuple(null_market(seed, duration_s=300.0, rates=(whales,)) for seed in (31, 32))
    result, _ = measured(Job(markets, "every=10s,side=both,sl=20bps,tp=20bps,max=30s,start=65s", "whale", options=FEW))
    rule = result["rules"]["whale"]
    assert rule["excess_r"]["mean"] > 0.05 and rule["excess_r"]["p"] <= 0.01 and rule["saved"] > 3 * rule["harmed"]
