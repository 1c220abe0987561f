"""The ruler is proven on markets whose truth is known: none to find, stale quotes alone, planted skill, planted events, rules without skill."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from detections import Found, Hunt, hunted, spread_out
from markets import MS, NULL_ENTRIES, Job, measured, null_market, often, side_by_side
from scipy.stats import kstest

from engine.measure.inference import wilson
from engine.measure.market_model import MarketConfig
from engine.measure.measure import Options
from engine.measure.plants import Divergence, FlowNoise, Plant, Rate, Reversal, Void, Whale
from engine.rules import SHIPPED
from engine.run import Settings

pytestmark = pytest.mark.slow
ZERO_SKILL = Path(__file__).with_name("zero_skill")
NULL_SEEDS = tuple(range(1, 217))
KS_LEVEL = 0.01
SKILL_SEEDS = tuple(range(500, 536))
DRIFTS_BPS = (0.0, 2.0, 4.0, 8.0)


def table(title: str, heads: str, rows: list[tuple]) -> None:
    """Show a table of what was measured; pytest prints it when a test fails, or with -s."""
    print(f"\n{title}\n{heads}")
    for row in rows:
        print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))


# a market with nothing to find


def null_run(seed: int) -> dict:
    """Return what the whole path says of two rules that fire often, in a market of one seed without an edge."""
    result, _ = measured(Job((null_market(seed),), NULL_ENTRIES, "order_flow,momentum_reversal", often("order_flow", "momentum_reversal"),
                             options=Options(attribution=False)))
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
    table(f"{rule}, {kind}", "seeds  fired  p<=.05  KS D  KS p", [(len(p), fired, share, float(uniform.statistic), float(uniform.pvalue))])
    assert 0.2 <= fired <= 0.6
    assert 0.02 <= share <= 0.08
    assert uniform.pvalue > KS_LEVEL


@pytest.mark.parametrize("rule", ["order_flow", "momentum_reversal"])
def test_the_excess_of_a_market_without_an_edge_is_equivalent_to_none(null_runs, rule):
    excess = np.array([run[rule]["excess_r"]["mean"] for run in null_runs])
    error = float(excess.std(ddof=1) / math.sqrt(len(excess)))
    covers = [run[rule]["excess_r"]["ci95"] for run in null_runs if run[rule]["excess_r"]["ci95"]]
    covered = float(np.mean([low <= 0 <= high for low, high in covers]))
    table(f"{rule}, equivalence", "trades  excess  s.e.  intervals covering 0",
          [(sum(run["trades"] for run in null_runs), float(excess.mean()), error, covered)])
    assert -0.02 < excess.mean() - 1.645 * error and excess.mean() + 1.645 * error < 0.02
    assert covered >= 0.85
    assert all(run[rule]["stale_quote_r"] == 0.0 and run[rule]["verdict"] == "insufficient" for run in null_runs)


# a broker whose quotes are older than the latency


def stale_run(latency_ms: int) -> dict:
    """Measure a rule that chases the venue, against a broker 1.5 s behind it."""
    markets = tuple(null_market(seed, broker_lag_ms=1500.0) for seed in range(300, 312))
    return measured(Job(markets, NULL_ENTRIES, "momentum_reversal", often("momentum_reversal"), settings=Settings(latency_ns=latency_ms * MS)))[0]


def test_the_gain_of_stale_quotes_appears_and_the_split_takes_it_away():
    rows, stale = [], []
    for latency_ms, result in zip((0, 100), side_by_side(stale_run, (0, 100))):
        rule = result["rules"]["momentum_reversal"]
        error = rule["minimum_detectable_r"] / 2.8
        scored = rule["delta_r"]["mean"] - rule["stale_quote_r"]
        rows.append((latency_ms, result["lead_ms"], rule["delta_r"]["mean"], rule["stale_quote_r"], scored, rule["excess_r"]["mean"], error))
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
    result, _ = measured(Job(tuple(skilled_market(seed, drift_bps) for seed in seeds), SKILL_ENTRIES, "whale", options=Options(attribution=False)))
    return {"trades": result["trades"], **result["rules"]["whale"]}


@pytest.fixture(scope="module")
def skill_runs() -> dict[float, list[dict]]:
    """Return one run for each drift and seed: together they are the oracle."""
    cases = [(drift, (seed,)) for drift in DRIFTS_BPS for seed in SKILL_SEEDS]
    runs = side_by_side(skill_run, cases)
    n = len(SKILL_SEEDS)
    return {drift: runs[k * n:(k + 1) * n] for k, drift in enumerate(DRIFTS_BPS)}


def means(runs: list[dict], part: str) -> np.ndarray:
    return np.array([run[part]["mean"] for run in runs])


def test_planted_skill_is_found_more_surely_the_larger_it_is(skill_runs):
    rows = []
    for drift, runs in skill_runs.items():
        excess = means(runs, "excess_r")
        covered = np.mean([run["excess_r"]["ci95"][0] <= excess.mean() <= run["excess_r"]["ci95"][1] for run in runs])
        rows.append((drift, float(np.mean([run["fired"] / run["trades"] for run in runs])), float(means(runs, "delta_r").mean()), float(excess.mean()),
                     float(excess.std(ddof=1) / math.sqrt(len(runs))), float(np.mean([run["excess_r"]["p"] <= 0.05 for run in runs])), float(covered)))
    table("whale rule by planted drift", "drift bps  fired  change R  excess R  s.e.  p<=.05  intervals covering the mean", rows)
    excess, found = ([row[k] for row in rows] for k in (3, 5))
    assert abs(excess[0]) <= 3 * rows[0][4] and found[0] <= 0.15
    assert all(after > before + 3 * rows[0][4] for before, after in zip(excess, excess[1:]))
    assert found == sorted(found) and found[-1] >= 0.95
    assert float(np.mean([row[6] for row in rows])) >= 0.85


def test_the_interval_of_planted_skill_covers_the_oracle(skill_runs):
    cases = [(drift, tuple(range(900, 912))) for drift in (4.0, 8.0)]
    for (drift, _), run in zip(cases, side_by_side(skill_run, cases)):
        oracle_r, oracle_excess_r = means(skill_runs[drift], "delta_r").mean(), means(skill_runs[drift], "excess_r").mean()
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
    result, _ = measured(Job(markets, SKILL_ENTRIES, "inert,whale_one,whale_two", rules_folder=own_rules, shipped=False))
    credit = result["attribution"]
    print(credit)
    assert credit["names"] == ["inert", "whale_one", "whale_two"]
    assert result["rules"]["inert"]["fired"] == 0 and result["rules"]["whale_one"]["fired"] > 50
    assert credit["value_r"] == pytest.approx(credit["solo"]["whale_one"]) and credit["value_r"] > 0.03 * result["trades"]
    assert credit["solo"]["whale_one"] == pytest.approx(credit["solo"]["whale_two"])
    assert credit["shapley"] == pytest.approx({"inert": 0.0, "whale_one": credit["value_r"] / 2, "whale_two": credit["value_r"] / 2}, abs=1e-9)
    assert credit["leave_one_out"] == pytest.approx({"inert": 0.0, "whale_one": 0.0, "whale_two": 0.0}, abs=1e-9)
    one, two = (credit["names"].index(name) for name in ("whale_one", "whale_two"))
    assert credit["interaction"][one][two] == pytest.approx(-credit["value_r"])


# rules without skill (methodology 7.2)


def zero_skill_run(case: tuple[str, str, tuple[int, ...], Path]) -> dict:
    """Measure rules that know nothing, on markets with nothing to know."""
    wanted, entries, seeds, rules = case
    markets = tuple(null_market(seed, duration_s=900.0, trades_per_s=4.0, quotes_per_s=20.0, frames_per_s=1.0, level_updates_per_side=4,
                                broker_quotes_per_s=10.0, broker_spread_bps=0.3) for seed in seeds)
    result, detail = measured(Job(markets, entries, wanted, (), rules, False, options=Options(attribution=False)))
    return {"trades": result["trades"], "losers": int((detail["trades"].y < 0).sum()), **result["rules"]}


def test_the_table_of_rules_without_skill(own_rules):
    fair = "every=6s,side=both,sl=5bps,tp=5bps,max=240s,start=65s"
    cases = [("coin_flip,give_back,inert,underwater", fair, tuple(range(3000, 3024)), own_rules),
             ("coin_flip", fair.replace("tp=5bps", "tp=10bps"), tuple(range(3100, 3116)), own_rules)]
    one, two = side_by_side(zero_skill_run, cases)
    rules = {"coin flip": (one, one["coin_flip"]), "first touch of -0.5R": (one, one["underwater"]), "give back 0.5R": (one, one["give_back"]),
             "coin flip, take at 2R": (two, two["coin_flip"])}
    rows, net = [], {}
    for name, (run, rule) in rules.items():
        net[name] = (rule["saved"] - rule["harmed"]) / run["trades"]
        rows.append((name, run["trades"], rule["fired"] / run["trades"], rule["saved"] / run["losers"], rule["harmed"] / run["trades"], net[name],
                     rule["delta_r"]["mean"], rule["excess_r"]["mean"], rule["minimum_detectable_r"] / 2.8, rule["excess_r"]["p"],
                     rule["count_excess"]["mean"], rule["count_excess"]["p"], rule["verdict"]))
    table("rules without skill", "rule  trades  fired  losers saved  harmed  net  change R  excess R  s.e.  p  net excess  p  verdict", rows)
    saved = {row[0]: row[3] for row in rows}
    assert saved["first touch of -0.5R"] > 0.95 and net["first touch of -0.5R"] > 0.25
    assert abs(net["coin flip"]) < 0.05 and net["coin flip, take at 2R"] > 0.05 and net["give back 0.5R"] < -0.03
    for name, (_, rule) in rules.items():
        error = rule["minimum_detectable_r"] / 2.8
        assert abs(rule["excess_r"]["mean"]) <= 3 * error and abs(rule["delta_r"]["mean"]) <= 3 * error + 0.02, name
        assert rule["verdict"] == "indistinguishable", name
    assert one["inert"]["verdict"] == "insufficient" and one["inert"]["fired"] == 0


# detection


@dataclass(frozen=True)
class Search:
    """One rule against plants of one kind by strength, and the least that must be found at the last strength."""

    rule: str
    kind: str
    threatens: int
    strengths: tuple[float, ...]
    gap_s: float
    after_s: float
    together_s: float
    sessions: int
    recall: float              # Wilson lower bounds at the greatest strength
    precision: float

    def plants(self, at_s: float, side: int, strength: float) -> tuple[Plant, ...]:
        """Return what is planted about one moment; order flow needs a leaning, swollen, moving tape, which takes two plants."""
        match self.kind:
            case "whale":
                return (Whale(at_s, side, strength),)
            case "divergence":
                return (Divergence(at_s - 15, side, strength),)
            case "reversal":
                return (Reversal(at_s, side, strength),)
        if self.rule.startswith("order_flow"):
            return (Void(at_s - 20, side, 0.99, flow=strength, drift_bps=15.0, drift_s=40.0, duration_s=40.0), FlowNoise(at_s - 20, 1, 2.5, 40.0))
        return (Void(at_s - 10, side, strength, flow=0.6, drift_bps=6.0),)

    @property
    def hunts(self) -> list[list[Hunt]]:
        """Return the hunts by strength."""
        return [[self.hunt(1000 + number, lambda at, side, m=m: self.plants(at, side, m)) for number in range(self.sessions)] for m in self.strengths]

    def hunt(self, seed: int, make) -> Hunt:
        """Return one market with what `make` plants in it."""
        plants = tuple(plant for group in spread_out(make, self.gap_s, 1230.0, seed) for plant in group)
        config = MarketConfig(seed=seed, duration_s=1230.0, quotes_per_s=30.0, frames_per_s=5.0, plants=plants)
        return Hunt(config, self.rule, self.kind, self.threatens, self.after_s, self.together_s)


SEARCHES = {
    "whale": Search("whale", "whale", -1, (5, 10, 20), 30, 2, 2, 2, 0.9, 0.9),
    "whale classic": Search("whale:classic", "whale", -1, (1, 2, 5, 10), 30, 2, 2, 2, 0.9, 0.8),
    "void": Search("void", "void", 1, (0.5, 0.25, 0.1, 0.02), 60, 5, 20, 3, 0.6, 0.85),
    "divergence": Search("divergence", "divergence", 1, (0.5, 1, 2, 5), 100, 25, 30, 3, 0.8, 0.7),
    "momentum_reversal": Search("momentum_reversal", "reversal", -1, (1, 2, 5, 10), 120, 5, 30, 3, 0.8, 0.3),
    "order_flow": Search("order_flow", "void", 1, (0.2, 0.4, 0.6, 0.8), 100, 3, 40, 3, 0.7, 0.8),
}
DECOYS = {
    "whale": lambda at, side: (Whale(at, side, 10.0, prints=80, balanced=True),),
    "whale classic": lambda at, side: (Whale(at, side, 5.0, prints=80, balanced=True),),
    "void": lambda at, side: (Void(at - 10, side, 0.02, near_bps=145.0, far_bps=150.0, flow=0.6, drift_bps=6.0),),
    "divergence": lambda at, side: (FlowNoise(at - 15, 1, 3.0),),
    "order_flow": lambda at, side: (FlowNoise(at - 15, 1, 3.0),),
}
QUIET = {"whale": 0.0, "void": 0.0, "divergence": 6.0, "momentum_reversal": 60.0, "order_flow": 1.5}   # most false alarms an hour on the null


@pytest.fixture(scope="module")
def searched() -> dict[str, dict[object, Found]]:
    """Return what was found, by search and strength, on decoys and on markets with nothing planted."""
    keys, hunts = [], []
    for name, search in SEARCHES.items():
        for strength, group in zip(search.strengths, search.hunts):
            keys += [(name, strength)] * len(group)
            hunts += group
        if name in DECOYS:
            keys.append((name, "decoy"))
            hunts.append(search.hunt(1050, DECOYS[name]))
        if name in QUIET:
            keys += [(name, "null")] * 2
            hunts += [search.hunt(seed, lambda at, side: ()) for seed in (1060, 1061)]
    found: dict[str, dict[object, Found]] = {}
    for (name, what), part in zip(keys, side_by_side(hunted, hunts)):
        mine = found.setdefault(name, {})
        mine[what] = mine[what] + part if what in mine else part
    return found


@pytest.mark.parametrize("name", SEARCHES)
def test_planted_events_are_detected(searched, name):
    search, found = SEARCHES[name], searched[name]
    rows = []
    for what, part in found.items():
        late = float(np.median(part.delays_s)) if part.delays_s else float("nan")
        rows.append((what, part.plants, part.hits, part.fires, *wilson(part.hits, part.plants), *wilson(part.hits, part.fires),
                     (part.fires - part.hits) / part.hours, part.on_decoys, late))
    table(name, "strength  plants  hits  alarms  recall low  high  precision low  high  false/h  on decoys  delay s", rows)
    recall = [found[strength].hits for strength in search.strengths]
    assert recall == sorted(recall) and recall[0] < recall[-1]
    best = found[search.strengths[-1]]
    assert wilson(best.hits, best.plants)[0] >= search.recall
    assert wilson(best.hits, best.fires)[0] >= search.precision
    precision = [found[strength].hits / max(1, found[strength].fires) for strength in search.strengths]
    assert precision[0] <= precision[-1] + 0.05


@pytest.mark.parametrize("name", DECOYS)
def test_decoys_are_left_alone(searched, name):
    """Windows of swollen tape cover half the session, so the one false alarm an hour of `divergence` may fall into one."""
    assert searched[name]["decoy"].on_decoys <= (1 if name == "divergence" else 0)


@pytest.mark.parametrize("name", QUIET)
def test_a_market_without_events_is_quiet(searched, name):
    part = searched[name]["null"]
    assert part.fires / part.hours <= QUIET[name]
