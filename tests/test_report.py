"""The report says what was measured, claims no more than it may, and survives any input."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import CONTROLS, FLOW, HOSTILE, Page, chart, example

from engine.report import html, words
from engine.report.charts import Scale, spread, steps
from engine.report.html import render_report, write_report
from engine.report.words import UNKNOWN, judgement, number, wilson


def tip_counts(drawing: str) -> list[int]:
    """Return the counts that the bars of a drawing tell."""
    return [int(text.replace(",", "")) for text in re.findall(r": ([\d,]+)</title></rect>", drawing)]


def emptied(value: object) -> object:
    """Return the same structure with every value unknown."""
    if isinstance(value, dict):
        return {key: emptied(item) for key, item in value.items()}
    return [emptied(item) for item in value] if isinstance(value, list) else None


def test_page_is_whole_and_needs_nothing_else():
    page = render_report(*example())
    read = Page(page)
    assert "http:" not in page and "https:" not in page and "url(" not in page and "@import" not in page
    assert not any("src" in found or found.get("href", "data:,") != "data:," for _, found in read.elements)
    assert page == render_report(*example())
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Verdicts",
        "Outcomes over all trades",
        "How much each trade changed",
        "Cumulative result with and without each rule",
        "How long before the baseline exit",
        "Where the trades went and where the rules stepped in",
        "Which rule earned it",
        "Is the order-flow score a probability?",
        "What these numbers do not mean",
    ]
    assert read.text.index("Broker quotes are modelled.") < read.text.index("Verdicts")
    for kind in ("change", "equity", "lead", "fired"):
        assert page.count(f'data-chart="{kind}"') == len(FLOW + CONTROLS)
    assert page.count('data-chart="calibration"') == 1


def test_the_reliability_curve_is_of_the_score_and_absent_where_nothing_was_judged():
    result, detail = example(n=150, names=["whale"])
    page = render_report(result, detail)
    drawn = chart(page, "calibration")
    assert drawn.count("<circle") == drawn.count('class="whisker"') == 4, "a bin without a call has no dot"
    assert "score 50 to 70: predicted 66%, observed 68%, 22 calls" in drawn and "not of a rule" in page
    assert "116 of 207 calls" in Page(page).text and "data-rule" not in page[page.index('id="calibration"') : page.index('id="honesty"')]
    bare = {**result["calibration"], "bins": [], "brier": None}
    bare["sentence"] = "Order-flow score: not calibrated; a calibration needs <two> sessions."
    page = render_report({**result, "calibration": bare}, detail)
    assert 'data-chart="calibration"' not in page and "a calibration needs <two> sessions." in Page(page).text
    assert 'id="calibration"' not in render_report({**result, "calibration": None}, detail)


def test_recorded_quotes_carry_no_warning():
    result, detail = example(n=150, names=["whale"])
    assert "Broker quotes are modelled." not in Page(render_report({**result, "quotes": "recorded"}, detail)).text
    assert "not known whether broker quotes" in Page(render_report({**result, "quotes": None}, detail)).text


def test_saved_and_the_judgement_are_said_at_the_same_size():
    result, detail = example(names=["whale"])
    rule = result["rules"]["whale"]
    rule["verdict"], rule["excess_r"]["ci95"] = "indistinguishable", [-0.01, 0.02]
    big = [
        re.sub("<[^>]*>", "", found) for found in re.findall(r'<p class="big">(.*?)</p>', render_report(result, detail))
    ]
    assert big[:3] == [
        f"{rule['saved']} saved",
        f"{rule['harmed']} harmed",
        "not distinguishable from matched random exits",
    ]


@pytest.mark.parametrize(
    ("verdict", "ci", "trades", "fired", "said"),
    [
        ("better", [0.01, 0.05], 500, 60, "better than"),
        ("better", [-0.01, 0.05], 500, 60, "not distinguishable"),
        ("better", [0.0, 0.05], 500, 60, "not distinguishable"),
        ("better", [-0.05, -0.01], 500, 60, "not known"),
        ("worse", [-0.05, -0.01], 500, 60, "worse than"),
        ("indistinguishable", [0.01, 0.05], 500, 60, "not distinguishable"),
        ("indistinguishable", None, 500, 60, "not distinguishable"),
        ("better", None, 500, 60, "not known"),
        ("better", [0.01, None], 500, 60, "not known"),
        (None, [0.01, 0.05], 500, 60, "not known"),
        ("better", [0.01, 0.05], 99, 60, "insufficient"),
        ("better", [0.01, 0.05], None, 60, "insufficient"),
        ("insufficient", [0.01, 0.05], 500, 60, "insufficient"),
        ("indistinguishable", [0.0, 0.0], 500, 0, "never fired"),
    ],
)
def test_nothing_is_claimed_without_verdict_and_interval(verdict, ci, trades, fired, said):
    assert judgement({"verdict": verdict, "excess_r": {"ci95": ci}, "fired": fired}, trades)[0].startswith(said)


def test_the_test_that_fails_is_named():
    rule = {"verdict": "indistinguishable", "fired": 60, "excess_r": {"ci95": [0.01, 0.05], "p_holm": 0.01}}
    rule |= {"twin_r": {"ci95": [0.01, 0.04]}, "matched_r": {"p": 0.01}}
    said = lambda **changes: judgement({**rule, **changes}, 500)[0]  # noqa: E731
    assert (
        said()
        == said(excess_r={"ci95": [0.01, 0.05], "p_holm": 0.2})
        == "not distinguishable from matched random exits"
    )
    assert said(twin_r={"ci95": [-0.01, 0.04]}) == "not shown to beat a plain tighter stop"
    assert said(matched_r={"p": 0.3}) == "not shown to beat matched moments of other trades"
    assert said(twin_r={"ci95": [-0.01, 0.04]}, excess_r={"ci95": [-0.01, 0.05], "p_holm": 0.01}) == said()


def test_few_trades_are_insufficient_everywhere():
    result, detail = example(n=99)
    for rule in result["rules"].values():
        rule["verdict"], rule["excess_r"]["ci95"] = "better", [0.1, 0.2]
    page = render_report(result, detail)
    text = Page(page).text
    assert text.count("insufficient to distinguish from chance") == len(result["rules"])
    assert "better than matched" not in text and "nothing is ranked" in text
    assert 'mark better"' not in chart(page, "excess")
    assert page.count('data-chart="change"') == len(result["rules"])


def test_outcome_table_is_over_all_trades():
    result, detail = example()
    table = re.search(r'aria-label="outcomes of all trades".*?</table>', render_report(result, detail), re.S).group()
    rows = [re.findall(r"<td>([\d,]+)<small>", row) for row in re.findall(r"<tr data-rule.*?</tr>", table, re.S)]
    assert len(rows) == len(result["rules"])
    for row, rule in zip(rows, result["rules"].values()):
        fired, saved, turned, improved, harmed, cut, flipped, worsened, neutral, late, unfired = map(int, row)
        assert saved + improved + harmed + neutral + late + unfired == result["trades"]
        assert cut + flipped + worsened == harmed and turned <= saved
        assert (fired, saved, harmed) == (rule["fired"], rule["saved"], rule["harmed"])


def test_bars_hold_every_fired_trade():
    result, detail = example(n=900)
    page = render_report(result, detail)
    for n, (name, policy) in enumerate(detail["policies"].items()):
        drawing = chart(page, "change", n)
        assert sum(tip_counts(drawing)) == policy.fired.sum()
        assert sum(map(int, re.findall(r">(\d+) of 999 draws", drawing))) == 999
        assert (
            sum(tip_counts(chart(page, "lead", n)))
            == (policy.fired & (policy.close_ns < detail["trades"].close_ns)).sum()
        )
        assert f">{number(policy.y.sum(), 0 if abs(policy.y.sum()) >= 100 else 1, sign=True)}</text>" in chart(
            page, "equity", n
        )
        assert f"{result['rules'][name]['saved']} of 900 saved" in chart(page, "saved")


def test_what_the_browser_would_run_is_escaped():
    result, detail = example(names=HOSTILE)
    for name, rule in zip(HOSTILE, result["rules"].values()):
        rule.update(preset=name, sentence=name, time_shift={"mean": None, "reason": name})
    result.update(sessions=HOSTILE, symbols=HOSTILE, baseline=HOSTILE[0], lead_ms={HOSTILE[1]: 120})
    result["attribution"]["displaced"] = {name: {other: 1.5 for other in HOSTILE} for name in HOSTILE}
    read = Page(render_report(result, detail))
    assert read.count("script") == 1 and read.count("style") == 1 and read.count("img") == 0
    assert not any(key.startswith("on") for _, found in read.elements for key in found)
    assert HOSTILE[0] in read.text


def test_unknown_is_said_and_never_zero():
    result, detail = example(names=["whale", "void"])
    empty = emptied(result)
    empty["rules"]["void"] = None
    for given_detail in (detail, {}):
        text = Page(render_report(empty, given_detail)).text
        assert f"{UNKNOWN} saved" in text and f"{UNKNOWN} harmed" in text
        assert not re.search(r"\b(None|nan|inf|0 saved|0 harmed)\b", text)
    assert "No rule was measured" in Page(render_report({}, {})).text


def test_any_one_value_may_be_missing():
    result, detail = example(n=120, names=["whale"])
    for key in result["rules"]["whale"]:
        Page(render_report({**result, "rules": {"whale": {**result["rules"]["whale"], key: None}}}, detail))
    for key in result:
        Page(render_report({**result, key: None}, detail))
    for key in result["attribution"]:
        Page(render_report({**result, "attribution": {**result["attribution"], key: None}}, detail))
    for key in detail:
        Page(render_report(result, {**detail, key: None}))


def test_a_rule_that_never_fired():
    result, detail = example(names=["whale", "void"], rates={"void": 0.0})
    page = render_report(result, detail)
    text = Page(page).text
    assert "never fired: nothing to judge" in text and "This rule did not fire" in text
    assert page.count('data-chart="change"') == page.count('data-chart="lead"') == page.count('data-chart="fired"') == 1
    assert page.count('data-chart="equity"') == 2


def test_no_trades_and_no_attribution():
    result, detail = example(n=0, names=["whale"])
    read = Page(render_report({**result, "attribution": None}, detail))
    assert "Attribution over coalitions of rules is not known" in read.text
    assert read.count("nav") == 0


@pytest.mark.filterwarnings("error")
def test_huge_numbers_and_lost_ones():
    result, detail = example(n=200, names=["whale", "void"])
    rule = result["rules"]["whale"]
    rule.update(
        saved=10**15,
        stale_quote_r=1e300,
        minimum_detectable_r=math.inf,
        delta_r={"mean": -1e12, "ci95": [-1e308, 1e308], "total": 1e308},
    )
    trades, policy = detail["trades"], detail["policies"]["whale"]
    y = trades.y.copy()
    y[0], y[1], y[2] = 1e307, math.nan, -1e307
    detail["trades"] = replace(trades, y=y)
    detail["policies"]["whale"] = replace(policy, y=np.where(policy.fired, 1e300, y))
    detail["delta_r"]["whale"] = np.where(policy.fired, 1e307, 0.0)
    page = render_report(result, detail)
    read = Page(page)
    assert "1.00e15 saved" in read.text and "1 trades without a known result" in read.text
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page) and not re.search(r"\b(nan|inf)\b", read.text)


def test_many_trades_stay_a_small_file(tmp_path):
    result, detail = example(n=5000)
    write_report(tmp_path / "deep" / "report.html", result, detail)
    assert (tmp_path / "deep" / "report.html").stat().st_size < 1_500_000


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(path, *example(n=120, names=["whale"]))
    before = path.read_bytes()

    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(html.sections, "honesty", fail)
    with pytest.raises(RuntimeError):
        write_report(path, *example(n=150, names=["void"]))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_wilson_interval_of_190_in_200():
    low, high = wilson(190, 200)
    assert (round(low, 2), round(high, 2)) == (0.91, 0.97)
    assert wilson(None, 200) is None and wilson(1, 0) is None and wilson(3, 2) is None


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_where_the_test_of_a_share_turns(case):
    k, n = case
    share = k / n
    for end in wilson(k, n):
        if 1e-6 < end < 1 - 1e-6:
            assert abs(share - end) == pytest.approx(
                1.959963984540054 * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9
            )


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_any_values_give_a_scale_with_ticks_inside(values):
    low, high = spread(values, 0.0)
    assert low < high
    scale = Scale(low, high, 10, 90)
    assert all(10 <= scale(min(max(v, -1e308), 1e308)) <= 90 for v in values if v == v)
    assert 1 <= len(steps(low, high, 5)) <= 12


def test_numbers_for_a_person():
    assert [number(x, 2) for x in (None, math.nan, math.inf, True, "7")] == [UNKNOWN] * 5
    assert [number(x, 2, sign=True) for x in (0.0, -0.001, 0.25, -1234.5)] == ["0.00", "0.00", "+0.25", "−1,234.50"]
    assert [words.duration(x) for x in (0.05, 4.2, 90, 600, 7300, 200_000)] == [
        "50 ms",
        "4.2 s",
        "90 s",
        "10 min",
        "2.0 h",
        "2.3 days",
    ]
    assert words.probability(0.0) == "<0.001" and words.utc(10**22) == UNKNOWN


def test_written_file_is_the_rendered_page(tmp_path: Path):
    result, detail = example(n=120, names=["whale"])
    write_report(tmp_path / "report.html", result, detail)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(result, detail)
