"""The sweep: the grid and its checks, every set as it would be alone, the luck of the winner, and the ledger."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replays import ENTRIES, generated_session

from engine.entries import parse_entries, plan_entries
from engine.errors import BadInput
from engine.measure import sweep as module
from engine.measure.experiment import BASELINE, Variant, only, run_experiment
from engine.measure.grid import MOST_SETS, expand, parse_grid
from engine.measure.ledger import count_tried, read
from engine.measure.outcomes import Trades, delta_r
from engine.measure.selection import block_sums, other_half, sign_flips, trade_blocks
from engine.measure.sweep import sweep
from engine.replay import Plan
from engine.rules import choose, find_rules
from engine.run import Settings

GRID = ["momentum_reversal.fire_z=0.5:2:3", "tighter_stop.at_r=0.3,0.6"]
UNTIMED = ("seconds", "run_seconds", "event_sets_per_second")


@pytest.fixture(scope="module")
def choices():
    return choose(find_rules(), "all", ["momentum_reversal.floor_bps=0.5"])


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return generated_session(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def plans(session, choices):
    """Return the same session twice, with other entries, as two sessions."""
    manifest = session.manifest
    broker = next(entry.symbol for entry in session.instruments if entry.venue == "mt5")
    return [Plan(session, plan_entries(parse_entries(text), manifest["first_recv_ns"], manifest["last_recv_ns"],
                                       broker), choices)
            for text in (ENTRIES, ENTRIES.replace("every=7s", "every=5s"))]


def test_a_grid_is_read_exactly():
    whale, void, log = parse_grid(["whale.large_usd=500000:2000000:4", "void.reach=0.5,1,2",
                                   "whale.fresh_ms=1:1000:4:log"])
    assert (whale.name, whale.values) == ("whale.large_usd", (500_000, 1_000_000, 1_500_000, 2_000_000))
    assert (void.name, void.values) == ("void.reach", (0.5, 1, 2)) and log.values == (1, 10, 100, 1000)
    assert parse_grid(["a.b=0.1:0.5:5"])[0].values == (0.1, 0.2, 0.3, 0.4,
                                                       0.5) and parse_grid(["a.b=-1e-1,2."])[0].values == (-0.1, 2)


@settings(max_examples=100, deadline=None)
@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(2, 50), st.booleans())
def test_a_range_holds_both_ends_and_rises(first, span, count, log):
    first = abs(first) + 1 if log else first
    values = parse_grid([f"a.b={first}:{first + span}:{count}{':log' if log else ''}"])[0].values
    assert len(values) == count and values[0] == first and values[-1] == first + span
    assert all(low < high for low, high in zip(values, values[1:]))


@pytest.mark.parametrize("text, says", [
    ("whale.large_usd", "write it as rule.param=values"), ("large_usd=1,2", "write it as rule.param=values"),
    ("whale.large_usd=", "write it as"), ("void.reach=1:2", "first:last:count"),
    ("void.reach=1:2:3:cube", "first:last:count"),
    ("void.reach=1:2:1", "'1' is not a whole number of 2 or more"), ("void.reach=1:2:2.5",
                                                                     "'2.5' is not a whole number"),
    ("void.reach=2:1:3", "not below the last"), ("void.reach=0:1:3:log", "above 0"),
    ("void.reach=1,two", "'two' is not a number"),
    ("void.reach=1,,2", "'' is not a number"), ("void.reach=nan", "'nan' is not a number"),
    ("void.reach=1e999999999", "is not a number"),
    ("void.reach=1,1.0", "given twice"), ("void.reach=1:2:5000", "4096 sets at most"),
    ("void.rich=1,2", "did you mean 'reach'"),
    ("viod.reach=1,2", "did you mean 'void'"), ("order_flow.min_trades=1,2.5", "min_trades is a whole number"),
    ("order_flow.min_trades=1,1e18", "at most"), ("void.share=0.5,2",
                                                  "void.share=2: no set with it is allowed: within_bps"),
    ("whale.large_usd=500000:2000000:4", "large_usd=1500000: no set with it is allowed: need 500000"),
])
def test_a_grid_that_cannot_be_is_one_sentence(choices, text, says):
    with pytest.raises(BadInput) as error:
        expand(parse_grid([text]), choices)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_no_axis_the_same_axis_twice_and_too_many_sets_are_refused(choices):
    with pytest.raises(BadInput, match="needs a grid"):
        parse_grid([])
    with pytest.raises(BadInput, match="given twice"):
        parse_grid(["void.reach=1,2", "void.reach=3"])
    with pytest.raises(BadInput, match=r"4225 sets \(65 x 65\); 4096 at most"):
        expand(parse_grid(["void.reach=1:2:65", "void.min_gap_bps=1:2:65"]), choices)
    assert len(expand(parse_grid(["void.reach=1:2:64", "void.min_gap_bps=1:2:64"]), choices)[1]) == MOST_SETS


def test_whole_numbers_stay_whole_and_only_the_swept_rules_act(choices):
    axes, sets, refused = expand(parse_grid(["order_flow.min_trades=1:10:5", "void.reach=1,2"]), choices)
    assert axes[0].values == (1, 3, 6, 8, 10) and all(type(value) is int for value in axes[0].values) and not refused
    assert [tuple(entry.values.values()) for entry in sets] == list(product((1, 3, 6, 8, 10), (1.0, 2.0)))
    for entry in sets:
        acting = {choice.rule.name: choice.params for choice in entry.choices if choice.mode == "act"}
        assert set(acting) == {"order_flow", "void"} and {choice.mode for choice in entry.choices} == {"act", "off"}
        trades = acting["order_flow"].min_trades
        assert type(trades) is int and trades == entry.values["order_flow.min_trades"]
        assert acting["void"].reach == entry.values["void.reach"]
    assert expand(parse_grid(["order_flow.min_trades=1:3:5:log"]), choices)[0][0].values == (1, 2, 3)


def test_combinations_a_rule_refuses_are_left_out_and_told(choices):
    grid = parse_grid(["whale.large_usd=500000,800000", "whale.whale_usd=600000,900000"])
    _, sets, refused = expand(grid, choices)
    assert len(sets) == 3 and len(refused) == 1
    assert refused[0]["set"] == {"whale.large_usd": 800_000.0,
                                 "whale.whale_usd": 600_000.0} and "large_usd <= whale_usd" in refused[0]["reason"]


def test_every_set_is_what_it_would_be_alone(plans, choices):
    result = sweep(plans, choices, GRID, Settings(), workers=1)
    assert result["sets"] == len(result["results"]) == 6 and any(entry["fires"] for entry in result["results"])
    _, sets, _ = expand(parse_grid(GRID), choices)
    for entry, told in zip(sets, result["results"]):
        changes, fires = [], 0
        for plan in plans:
            run = run_experiment(plan, [Variant(BASELINE, only(choices, set()), Settings()),
                                        Variant("x", entry.choices, Settings())])
            changes.append(delta_r(run.trades, run.policies["x"]))
            fires += int(run.policies["x"].fired.sum())
        assert told["set"] == entry.values and told["fires"] == fires
        assert told["mean_delta_r"] == pytest.approx(np.concatenate(changes).mean(), abs=1e-12)
    means = [entry["mean_delta_r"] for entry in result["results"]]
    assert len(set(means)) > 1 and result["best"][0]["mean_delta_r"] == max(means) == result["winner"]["mean_delta_r"]
    assert [entry["mean_delta_r"] for entry in result["best"]] == sorted(means, reverse=True)
    assert result["heatmap"]["mean_delta_r"] == np.array(means).reshape(3, 2).T.tolist()
    assert result["heatmap"]["x_values"] == [0.5, 1.25, 2.0] and result["heatmap"]["y"] == "tighter_stop.at_r"
    assert 0 < result["adjusted_p"] <= 1 and result["event_sets_per_second"] > 0
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_passes_and_processes_do_not_show_in_the_result(plans, choices, monkeypatch, tmp_path):
    def told(workers, **limits):
        for name, value in limits.items():
            monkeypatch.setattr(module, name, value)
        seen = []
        result = sweep(plans, choices, GRID, Settings(), workers, lambda done, total: seen.append((done, total)))
        assert seen[-1] == (6, 6)
        return json.dumps({key: value for key, value in result.items() if key not in UNTIMED}), len(seen)

    alone, passes = told(1)
    assert passes == 1
    assert told(1, PASS_BYTES=1) == (alone, 6)
    assert told(1, PASS_BYTES=1 << 30, PASS_PLACES=1, LEAST_SETS=4) == (alone, 2)
    assert told(2, SPAWN_ABOVE=0, LEAST_SETS=16) == (alone, 2)


def test_every_set_is_counted_in_the_ledger_and_earlier_ones_cost(plans, choices, tmp_path):
    path = tmp_path / "data" / "ledger.jsonl"
    first = sweep(plans, choices, GRID[1:], Settings(), 1, ledger=path, trades=ENTRIES)
    assert first["ledger"] == str(path) and first["configurations_tried"] == 2
    lines = read(path).lines
    assert [line["mean_delta_r"] for line in lines] == [entry["mean_delta_r"] for entry in first["results"]]
    assert [line["fires"] for line in lines] == [entry["fires"] for entry in first["results"]]
    for line in lines:
        assert line["what"] == "sweep" and line["trades"] == ENTRIES and line["sessions"] == ["gen", "gen"]
        assert line["count"] == first["trades"] and len(line["session_delta_r"]) == 2
        assert set(line["rules"]) == {"tighter_stop"} and line["settings"]["latency_ns"] == 250_000_000
    again = sweep(plans[:1], choices, GRID[1:], Settings(), 1, ledger=path, trades=ENTRIES)
    assert again["configurations_tried"] == 2 and len(read(path).lines) == 4
    more = sweep(plans, choices, ["tighter_stop.at_r=0.3:0.6:4"], Settings(), 1, ledger=path, trades=ENTRIES)
    assert more["configurations_tried"] == count_tried(path, ENTRIES) == 4
    other = sweep(plans, choices, GRID[1:], Settings(), 1, ledger=path, trades="other")
    assert other["configurations_tried"] == 2 and other["adjusted_p"] == first["adjusted_p"]
    later = sweep(plans, choices, GRID[1:], Settings(), 1, ledger=path, trades=ENTRIES)
    assert later["adjusted_p"] == pytest.approx(min(1.0, 2 * first["adjusted_p"]))


def test_a_bad_ledger_stops_a_sweep_with_its_line(plans, choices, tmp_path):
    (tmp_path / "ledger.jsonl").write_text("nonsense\n")
    with pytest.raises(BadInput, match=r"ledger\.jsonl, line 1"):
        sweep(plans[:1], choices, GRID[1:], Settings(), 1, ledger=tmp_path / "ledger.jsonl")
    assert (tmp_path / "ledger.jsonl").read_text() == "nonsense\n"


def test_workers_and_sessions_are_checked(plans, choices):
    with pytest.raises(BadInput, match="--workers 0"):
        sweep(plans, choices, GRID, Settings(), 0)
    with pytest.raises(BadInput, match="needs a session"):
        sweep([], choices, GRID, Settings(), 1)


def naive_p(sums: np.ndarray) -> np.ndarray:
    """Return step-down p-values by trying every pattern of signs, one column after the other."""
    norm = np.sqrt((sums**2).sum(axis=0))
    t = np.abs(np.array([column.sum() / size if size else 0.0 for column, size in zip(sums.T, norm)]))
    order = sorted(range(len(t)), key=lambda k: -t[k])
    p, last = np.zeros(len(t)), 0.0
    for place, k in enumerate(order):
        hits = 0
        for signs in product((1, -1), repeat=len(sums)):
            flipped = [abs(sum(s * x for s, x in zip(signs, sums[:, j]))) / norm[j] if norm[j] else 0.0
                       for j in order[place:]]
            hits += max(flipped) >= t[k] - 1e-9
        last = p[k] = max(last, hits / 2 ** len(sums))
    return p


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 10_000))
def test_few_blocks_are_tried_in_every_pattern(blocks, columns, seed):
    drawn = np.random.default_rng(seed)
    sums = np.round(drawn.normal(size=(blocks, columns)), 1) * drawn.integers(0, 2, columns)
    np.testing.assert_allclose(sign_flips(sums).p, naive_p(sums))


def test_many_blocks_agree_with_every_pattern_and_p_is_never_zero():
    sums = np.random.default_rng(3).normal(0.5, 1.0, size=(12, 3))
    np.testing.assert_allclose(sign_flips(sums).p, naive_p(sums), atol=0.03)
    certain = sign_flips(np.full((40, 2), 1.0) + np.arange(80).reshape(40, 2) / 100)
    assert (certain.p == 1 / 2000).all() and (certain.t > 6).all()


def test_a_set_that_changes_nothing_has_p_one_and_a_copy_costs_nothing():
    sums = np.random.default_rng(5).normal(0.6, 1.0, size=(10, 1))
    alone = sign_flips(sums).p[0]
    assert sign_flips(np.repeat(sums, 50, axis=1)).p == pytest.approx([alone] * 50)
    both = sign_flips(np.hstack([sums, np.zeros((10, 1))]))
    assert both.p.tolist() == [alone, 1.0] and both.t[1] == 0.0


def test_the_best_of_many_useless_sets_is_rarely_called_better():
    drawn = np.random.default_rng(11)
    smallest = [sign_flips(drawn.standard_exponential((16, 30)) * drawn.choice([-1, 1], (16, 30)), seed).p.min()
                for seed in range(200)]
    assert np.mean(np.array(smallest) <= 0.05) <= 0.10 and np.mean(np.array(smallest) <= 0.5) > 0.35
    naive = [np.mean(np.abs(drawn.normal(size=(16, 30)).mean(axis=0)) * 4 > 1.96) > 0 for _ in range(200)]
    assert np.mean(naive) > 0.5


def test_the_winners_number_shrinks_to_what_it_is_worth():
    drawn = np.random.default_rng(13)
    best, shrunk = [], []
    for _ in range(200):
        sums, sizes = drawn.normal(size=(12, 25)) * np.sqrt(5), np.full(12, 5)
        best.append(sums.sum(axis=0).max() / 60)
        shrunk.append(other_half(sums, sizes))
    assert np.mean(best) > 0.2 and abs(np.mean(shrunk)) < 0.03
    planted = drawn.normal(size=(12, 25))
    planted[:, 7] += 10.0
    assert other_half(planted, np.full(12, 5)) == pytest.approx(planted[:, 7].sum() / 60, abs=0.02)
    assert other_half(planted[:3], np.full(3, 5)) is None and other_half(planted[:, :1], np.full(12, 5)) is None


def test_blocks_are_sessions_when_there_are_enough_and_else_stretches_of_time():
    def trades(session, open_s, hold_s):
        zero = np.zeros(len(session), np.int64)
        rows = {name: zero for name in Trades.__dataclass_fields__} | {
            "session": np.array(session), "open_ns": np.array(open_s) * 10**9,
            "close_ns": (np.array(open_s) + hold_s) * 10**9}
        return Trades(**rows)

    assert trade_blocks(trades([0, 0, 1, 2, 3, 4, 5, 6, 7], range(9), 1)).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert trade_blocks(trades([0, 0, 0, 1, 1], [0, 39, 40, 500, 539], 10)).tolist() == [0, 0, 1, 2, 2]
    assert trade_blocks(trades([0, 0, 0], [0, 50, 100], np.array([1, 1, 60]))).tolist() == [0, 0, 1]
    sums, sizes = block_sums(np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]]), np.array([0, 0, 1]))
    assert sums.tolist() == [[3.0, 0.0], [4.0, 1.0]] and sizes.tolist() == [2, 1]


@pytest.mark.slow
def test_a_sweep_of_a_real_recording_is_the_same_in_two_processes(btc_session, choices, monkeypatch):
    manifest = btc_session.manifest
    trades = plan_entries(parse_entries("every=4s,side=both,sl=5bps,tp=8bps,max=30s"), manifest["first_recv_ns"],
                          manifest["last_recv_ns"], "BTCUSDT")
    monkeypatch.setattr(module, "SPAWN_ABOVE", 0)
    grid = ["momentum_reversal.fire_z=0.5:2.5:8", "momentum_reversal.dwell_ms=0:1000:8"]
    one, two = (sweep([Plan(btc_session, list(trades), choices)], choices, grid, Settings(), workers)
                for workers in (1, 2))
    assert one["sets"] == 64 and one["trades"] > 100 and max(entry["fires"] for entry in one["results"]) > 10
    assert {**one, **dict.fromkeys(UNTIMED)} == {**two, **dict.fromkeys(UNTIMED)}
