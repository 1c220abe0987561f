"""The ruler is proven where the truth is known: nothing to find, stale quotes, planted skill, rules without skill."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from markets import MS, NULL_ENTRIES, Job, measured, null_market, often, side_by_side, table
from scipy.stats import kstest

from engine.measure.market_model import MarketConfig
from engine.measure.measure import Options
from engine.measure.plants import Rate, Whale
from engine.rules import SHIPPED
from engine.run import Settings

pytestmark = pytest.mark.slow
ZERO_SKILL = Path(__file__).with_name("zero_skill")
NULL_SEEDS = tuple(range(1, 217))
KS_LEVEL = 0.01
SKILL_SEEDS = tuple(range(500, 536))
DRIFTS_BPS = (0.0, 2.0, 4.0, 8.0)


# a market with nothing to find


def null_run(seed: int) -> dict:
    """Return what the whole path says of two rules that fire often, in a market of one seed without an edge."""
    result, _ = measured(
        Job(
            (null_market(seed),),
            NULL_ENTRIES,
            "order_flow,momentum_reversal",
            often("order_flow", "momentum_reversal"),
            options=Options(attribution=False),
        )
    )
    return {"trades": result["trades"], **result["rules"]}


@pytest.fixture(scope="module")
def null_runs() -> list[dict]:
    """Return the runs of all null seeds."""
    print(f"null seeds {NULL_SEEDS[0]} to {NULL_SEEDS[-1]}, {len(NULL_SEEDS)} of them")
    return side_by_side(null_run, NULL_SEEDS)


P_VALUES = {"placebo": ("excess_r", "p"), "matched change": ("matched_r", "p"), "matched count": ("count_excess", "p")}


@pytest.mark.parametrize("rule", ["order_flow", "momentum_reversal"])
@pytest.mark.parametrize("kind", P_VALUES)
def test_p_values_of_a_market_without_an_edge_are_uniform(null_runs, rule, kind):
    part, key = P_VALUES[kind]
    p = np.array([run[rule][part][key] for run in null_runs])
    share, uniform = float((p <= 0.05).mean()), kstest(p, "uniform")
    fired = float(np.mean([run[rule]["fired"] / run["trades"] for run in null_runs]))
    table(
        f"{rule}, {kind}",
        "seeds  fired  p<=.05  KS D  KS p",
        [(len(p), fired, share, float(uniform.statistic), float(uniform.pvalue))],
    )
    assert 0.2 <= fired <= 0.6
    assert 0.02 <= share <= 0.08
    assert uniform.pvalue > KS_LEVEL


@pytest.mark.parametrize("rule", ["order_flow", "momentum_reversal"])
def test_the_excess_of_a_market_without_an_edge_is_equivalent_to_none(null_runs, rule):
    excess = np.array([run[rule]["excess_r"]["mean"] for run in null_runs])
    error = float(excess.std(ddof=1) / math.sqrt(len(excess)))
    covers = [run[rule]["excess_r"]["ci95"] for run in null_runs if run[rule]["excess_r"]["ci95"]]
    covered = float(np.mean([low <= 0 <= high for low, high in covers]))
    table(
        f"{rule}, equivalence",
        "trades  excess  s.e.  intervals covering 0",
        [(sum(run["trades"] for run in null_runs), float(excess.mean()), error, covered)],
    )
    assert -0.02 < excess.mean() - 1.645 * error and excess.mean() + 1.645 * error < 0.02
    assert covered >= 0.85
    assert all(run[rule]["stale_quote_r"] == 0.0 and run[rule]["verdict"] == "insufficient" for run in null_runs)


# a broker whose quotes are older than the latency


def stale_run(latency_ms: int) -> dict:
    """Measure a rule that chases the venue, against a broker 1.5 s behind it."""
    markets = tuple(null_market(seed, broker_lag_ms=1500.0) for seed in range(300, 312))
    return measured(
        Job(
            markets,
            NULL_ENTRIES,
            "momentum_reversal",
            often("momentum_reversal"),
            settings=Settings(latency_ns=latency_ms * MS),
        )
    )[0]


def test_the_gain_of_stale_quotes_appears_and_the_split_takes_it_away():
    rows, stale = [], []
    for latency_ms, result in zip((0, 100), side_by_side(stale_run, (0, 100))):
        rule = result["rules"]["momentum_reversal"]
        error = rule["minimum_detectable_r"] / 2.8
        scored = rule["delta_r"]["mean"] - rule["stale_quote_r"]
        rows.append(
            (
                latency_ms,
                result["lead_ms"],
                rule["delta_r"]["mean"],
                rule["stale_quote_r"],
                scored,
                rule["excess_r"]["mean"],
                error,
            )
        )
        stale.append(rule["stale_quote_r"])
        assert abs(result["lead_ms"] - 1500.0) <= 25.0
        assert rule["stale_quote_r"] > 0.04 and rule["delta_r"]["ci95"][0] > 0.0
        assert abs(scored) <= 3 * error and abs(rule["excess_r"]["mean"]) <= 3 * error
        assert rule["verdict"] != "better"
    table("broker 1500 ms behind", "latency ms  lead ms  change R  stale R  scored R  excess R  s.e.", rows)
    assert stale[0] >= stale[1] - 0.01, "less latency, more of it"


# planted skill


def skilled_market(seed: int, drift_bps: float) -> MarketConfig:
    """Return a market in which price drifts on after every whale."""
    whales = Rate(Whale(strength=30.0, drift_bps=drift_bps, drift_s=20.0), 120.0, 70.0)
    return null_market(seed, frames_per_s=5.0, rates=(whales,))


SKILL_ENTRIES = "every=10s,side=both,sl=20bps,tp=20bps,max=30s,start=65s"


def skill_run(case: tuple[float, tuple[int, ...]]) -> dict:
    """Measure the whale rule on markets of one drift."""
    drift_bps, seeds = case
    result, _ = measured(
        Job(
            tuple(skilled_market(seed, drift_bps) for seed in seeds),
            SKILL_ENTRIES,
            "whale",
            options=Options(attribution=False),
        )
    )
    return {"trades": result["trades"], **result["rules"]["whale"]}


@pytest.fixture(scope="module")
def skill_runs() -> dict[float, list[dict]]:
    """Return one run for each drift and seed: together they are the oracle."""
    cases = [(drift, (seed,)) for drift in DRIFTS_BPS for seed in SKILL_SEEDS]
    runs = side_by_side(skill_run, cases)
    n = len(SKILL_SEEDS)
    return {drift: runs[k * n : (k + 1) * n] for k, drift in enumerate(DRIFTS_BPS)}


def means(runs: list[dict], part: str) -> np.ndarray:
    return np.array([run[part]["mean"] for run in runs])


def test_planted_skill_is_found_more_surely_the_larger_it_is(skill_runs):
    rows = []
    for drift, runs in skill_runs.items():
        excess = means(runs, "excess_r")
        covered = np.mean([run["excess_r"]["ci95"][0] <= excess.mean() <= run["excess_r"]["ci95"][1] for run in runs])
        rows.append(
            (
                drift,
                float(np.mean([run["fired"] / run["trades"] for run in runs])),
                float(means(runs, "delta_r").mean()),
                float(excess.mean()),
                float(excess.std(ddof=1) / math.sqrt(len(runs))),
                float(np.mean([run["excess_r"]["p"] <= 0.05 for run in runs])),
                float(covered),
            )
        )
    table(
        "whale rule by planted drift",
        "drift bps  fired  change R  excess R  s.e.  p<=.05  intervals covering the mean",
        rows,
    )
    excess, found = ([row[k] for row in rows] for k in (3, 5))
    assert abs(excess[0]) <= 3 * rows[0][4] and found[0] <= 0.15
    assert all(after > before + 3 * rows[0][4] for before, after in zip(excess, excess[1:]))
    assert found == sorted(found) and found[-1] >= 0.95
    assert float(np.mean([row[6] for row in rows])) >= 0.85


def test_the_interval_of_planted_skill_covers_the_oracle(skill_runs):
    cases = [(drift, tuple(range(900, 912))) for drift in (4.0, 8.0)]
    for (drift, _), run in zip(cases, side_by_side(skill_run, cases)):
        oracle_r, oracle_excess_r = (
            means(skill_runs[drift], "delta_r").mean(),
            means(skill_runs[drift], "excess_r").mean(),
        )
        table(f"drift {drift} bps", run["sentence"], [("oracle", float(oracle_r), float(oracle_excess_r))])
        low, high = run["excess_r"]["ci95"]
        assert run["excess_r"]["mean"] > 0 and 0 < low <= oracle_excess_r <= high
        assert run["delta_r"]["ci95"][0] <= oracle_r <= run["delta_r"]["ci95"][1]
        assert run["excess_r"]["p"] <= 0.01 and run["matched_r"]["p"] <= 0.05 and run["count_excess"]["p"] <= 0.05
        assert run["clustered_by"] == "sessions" and run["verdict"] in ("better", "indistinguishable")
    assert run["verdict"] == "better", "at 8 bps order flow also beats the plain tighter stop"


# credit


@pytest.fixture(scope="module")
def own_rules(tmp_path_factory) -> Path:
    """Return a folder of rule files: those without skill, and the whale rule twice."""
    folder = tmp_path_factory.mktemp("rules")
    for path in ZERO_SKILL.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("whale_one", "whale_two"):
        shutil.copy(SHIPPED / "whale.py", folder / f"{name}.py")
    return folder


def test_an_inert_rule_gets_no_credit_and_a_double_half_of_it(own_rules):
    markets = tuple(skilled_market(seed, 8.0) for seed in range(950, 954))
    result, _ = measured(
        Job(markets, SKILL_ENTRIES, "inert,whale_one,whale_two", rules_folder=own_rules, shipped=False)
    )
    credit = result["attribution"]
    print(credit)
    assert credit["names"] == ["inert", "whale_one", "whale_two"]
    assert result["rules"]["inert"]["fired"] == 0 and result["rules"]["whale_one"]["fired"] > 50
    assert (
        credit["value_r"] == pytest.approx(credit["solo"]["whale_one"]) and credit["value_r"] > 0.03 * result["trades"]
    )
    assert credit["solo"]["whale_one"] == pytest.approx(credit["solo"]["whale_two"])
    assert credit["shapley"] == pytest.approx(
        {"inert": 0.0, "whale_one": credit["value_r"] / 2, "whale_two": credit["value_r"] / 2}, abs=1e-9
    )
    assert credit["leave_one_out"] == pytest.approx({"inert": 0.0, "whale_one": 0.0, "whale_two": 0.0}, abs=1e-9)
    one, two = (credit["names"].index(name) for name in ("whale_one", "whale_two"))
    assert credit["interaction"][one][two] == pytest.approx(-credit["value_r"])


# rules without skill (methodology 7.2)


def zero_skill_run(case: tuple[str, str, tuple[int, ...], Path]) -> dict:
    """Measure rules that know nothing, on markets with nothing to know."""
    wanted, entries, seeds, rules = case
    markets = tuple(
        null_market(
            seed,
            duration_s=900.0,
            trades_per_s=4.0,
            quotes_per_s=20.0,
            frames_per_s=1.0,
            level_updates_per_side=4,
            broker_quotes_per_s=10.0,
            broker_spread_bps=0.3,
        )
        for seed in seeds
    )
    result, detail = measured(Job(markets, entries, wanted, (), rules, False, options=Options(attribution=False)))
    return {"trades": result["trades"], "losers": int((detail["trades"].y < 0).sum()), **result["rules"]}


def test_the_table_of_rules_without_skill(own_rules):
    fair = "every=6s,side=both,sl=5bps,tp=5bps,max=240s,start=65s"
    cases = [
        ("coin_flip,give_back,inert,underwater", fair, tuple(range(3000, 3024)), own_rules),
        ("coin_flip", fair.replace("tp=5bps", "tp=10bps"), tuple(range(3100, 3116)), own_rules),
    ]
    one, two = side_by_side(zero_skill_run, cases)
    rules = {
        "coin flip": (one, one["coin_flip"]),
        "first touch of -0.5R": (one, one["underwater"]),
        "give back 0.5R": (one, one["give_back"]),
        "coin flip, take at 2R": (two, two["coin_flip"]),
    }
    rows, net = [], {}
    for name, (run, rule) in rules.items():
        net[name] = (rule["saved"] - rule["harmed"]) / run["trades"]
        rows.append(
            (
                name,
                run["trades"],
                rule["fired"] / run["trades"],
                rule["saved"] / run["losers"],
                rule["harmed"] / run["trades"],
                net[name],
                rule["delta_r"]["mean"],
                rule["excess_r"]["mean"],
                rule["minimum_detectable_r"] / 2.8,
                rule["excess_r"]["p"],
                rule["count_excess"]["mean"],
                rule["count_excess"]["p"],
                rule["verdict"],
            )
        )
    table(
        "rules without skill",
        "rule  trades  fired  losers saved  harmed  net  change R  excess R  s.e.  p  net excess  p  verdict",
        rows,
    )
    saved = {row[0]: row[3] for row in rows}
    assert saved["first touch of -0.5R"] > 0.95 and net["first touch of -0.5R"] > 0.25
    assert abs(net["coin flip"]) < 0.05 and net["coin flip, take at 2R"] > 0.05 and net["give back 0.5R"] < -0.03
    for name, (_, rule) in rules.items():
        error = rule["minimum_detectable_r"] / 2.8
        assert abs(rule["excess_r"]["mean"]) <= 3 * error and abs(rule["delta_r"]["mean"]) <= 3 * error + 0.02, name
        assert rule["verdict"] == "indistinguishable", name
    assert one["inert"]["verdict"] == "insufficient" and one["inert"]["fired"] == 0
