"""The score against what followed: judged out of sample only, each look once, never called more than it is, and published."""

import json
import math
from types import SimpleNamespace

import pytest
from analyses import Tape, folded

from engine.analysis import calibration
from engine.analysis.calibration import EDGES, FILE, Call, calibrate, publish, published
from engine.analysis.library import Library
from engine.analysis.moment import canonical, score_code
from engine.analysis.order_flow import NOT_CALIBRATED, order_flow_signal
from engine.analysis.schemas import OUTPUTS
from engine.analysis.summary import analyse_moment, signal_answer, trend_answer
from engine.cli import main
from engine.errors import BadInput
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.importer import import_files

START_NS = 1_789_977_600_000_000_000


def judged_by(monkeypatch, parts: list[list[Call]], spans: list[tuple[int, int]] | None = None) -> dict:
    """Calibrate on calls made up, one list a session; spans are the times of the sessions."""
    def made(number: int) -> SimpleNamespace:
        first, last = spans[number] if spans else (10 * number, 10 * number + 9)
        return SimpleNamespace(id=f"s{number}", number=number, instruments=[SimpleNamespace(symbol="BTCUSDT", venue="binance_usdm")],
                               manifest={"first_recv_ns": first, "last_recv_ns": last})
    monkeypatch.setattr(calibration, "calls_of", lambda session, *rest: parts[session.number])
    return calibrate([made(number) for number in reversed(range(len(parts)))], "BTCUSDT")


def calls(score: float, right: int, wrong: int) -> list[Call]:
    return [Call(n, score, n < right) for n in range(right + wrong)]


def test_shares_are_of_earlier_sessions_and_judged_on_later_ones(monkeypatch):
    made = judged_by(monkeypatch, [calls(60.0, 79, 19), calls(-60.0, 150, 100)])
    bins = {entry["from"]: entry for entry in made["bins"]}
    assert bins[50.0]["n"] == 250 and bins[50.0]["right"] == 150 and bins[50.0]["share"] == 0.6 and bins[50.0]["predicted"] == 0.8
    assert made["brier"] == pytest.approx((150 * 0.2**2 + 100 * 0.8**2) / 250) and made["brier_of_a_coin"] == 0.25
    assert made["called"] == "score" and "beat a coin" in made["reason"], "worse than a coin, however many"
    assert made["fitted_n"] == 98 and made["judged_n"] == 250
    low, high = bins[50.0]["ci95"]
    assert low < 0.6 < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.24 / 250), rel=0.05)


def test_it_is_called_a_probability_only_when_there_are_enough_and_it_beats_a_coin(monkeypatch):
    good = judged_by(monkeypatch, [calls(60.0, 80, 20), calls(60.0, 160, 40)])
    assert good["called"] == "probability" and good["reason"] is None and good["brier"] < 0.25
    few = judged_by(monkeypatch, [calls(60.0, 80, 20), calls(60.0, 80, 19)])
    assert few["called"] == "score" and "99 calls" in few["reason"] and few["brier"] is not None
    lucky = judged_by(monkeypatch, [calls(60.0, 53, 47), calls(60.0, 106, 94)])
    assert lucky["brier"] < 0.25 and lucky["called"] == "score", "a little under a coin is what luck makes"


def test_one_session_judges_nothing_and_nothing_is_zero(monkeypatch):
    """Half a session is no session out of sample."""
    made = judged_by(monkeypatch, [calls(10.0, 600, 400)])
    assert made["brier"] is made["brier_of_a_coin"] is None and made["bins"] == [] and made["judged_n"] == 0
    assert made["called"] == "score" and "two sessions" in made["reason"] and "not calibrated" in made["sentence"]
    few = judged_by(monkeypatch, [calls(10.0, 600, 400), calls(10.0, 5, 4)])
    assert few["brier"] is None and few["bins"] == [] and "9 calls" in few["reason"]
    empty = judged_by(monkeypatch, [[], calls(10.0, 600, 400)])
    assert empty["judged_n"] == 0 and empty["brier"] is None, "nothing was there to fit on"


@pytest.mark.parametrize("second", [(0, 9), (5, 20), (9, 12)])
def test_sessions_of_the_same_time_are_no_second_sample(monkeypatch, second):
    """The same session twice, or two venues at once, would judge the score on what it was fitted on."""
    made = judged_by(monkeypatch, [calls(60.0, 300, 20), calls(60.0, 300, 20)], [(0, 9), second])
    assert made["same_time"] == ["s1"] and made["sessions"] == ["s0"] and made["judged_n"] == 0 and made["brier"] is None
    more = judged_by(monkeypatch, [calls(60.0, 80, 20), calls(60.0, 300, 0), calls(60.0, 160, 40)], [(0, 9), second, (30, 40)])
    assert more["judged_n"] == 200 and more["bins"][3]["predicted"] == pytest.approx(81 / 102, rel=1e-3)


def test_every_size_of_a_score_has_a_bin():
    assert [calibration._bin(size) for size in (0.1, 20, 20.1, -35, 50, -69, 70.1, 100)] == [0, 0, 1, 1, 2, 3, 4, 4] and len(EDGES) == 6


def test_looks_at_a_recording_do_not_overlap(generated):
    made = calibration.calls_of(generated.session, "BTCUSDT", 30, 10)
    times = [call.at_ns for call in made]
    assert len(made) >= 8 and all(later - earlier >= 10 * 10**9 for earlier, later in zip(times, times[1:], strict=False))
    assert calibrate([generated.session], "btcusdt", "M5", 10)["symbol"] == "BTCUSDT"
    for horizon in (0, 3601):
        with pytest.raises(BadInput, match="horizon"):
            calibrate([generated.session], "BTCUSDT", 30, horizon)
    with pytest.raises(BadInput, match="symbol 'DOGE'"):
        calibrate([generated.session], "DOGE")


@pytest.fixture
def good(monkeypatch) -> dict:
    return judged_by(monkeypatch, [calls(60.0, 80, 20), calls(60.0, 160, 40)])


def test_what_was_judged_is_published_by_symbol_and_read_again(good, monkeypatch, tmp_path):
    assert published(tmp_path) == {}
    path = publish(tmp_path, good)
    publish(tmp_path, {**good, "symbol": "ETHUSDT"})
    assert published(tmp_path) == {"BTCUSDT": good, "ETHUSDT": {**good, "symbol": "ETHUSDT"}} and path.name == FILE
    assert [each.name for each in tmp_path.iterdir()] == [FILE], "nothing is left beside it"
    assert publish(tmp_path, judged_by(monkeypatch, [calls(60.0, 9, 9)])) is None and published(tmp_path)["BTCUSDT"] == good


@pytest.mark.parametrize("text", ["", "[]", "{", '{"BTCUSDT": {}}', '{"BTCUSDT": 5}', "\0", '{"BTCUSDT": {"called": "probability"}}'])
def test_a_damaged_calibration_is_a_sentence(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BadInput, match="is no calibration"):
        published(tmp_path)


@pytest.fixture(scope="module")
def leaning() -> Tape:
    return Tape().walk(70, lean=0.9, book=(140, 100))


def answered(stream: Tape, entry: dict | None) -> dict:
    moment = folded(stream)
    moment.calibrations = {} if entry is None else {"BTCUSDT": entry}
    return signal_answer(moment, "BTCUSDT")


def test_answers_call_the_score_what_was_published_of_it(good, leaning):
    bare = answered(leaning, None)
    assert bare["order_flow"]["called"] == "score" and "published" in bare["order_flow"]["called_reason"] and "probability" not in bare["order_flow"]
    told = answered(leaning, good)
    flow = told["order_flow"]
    assert flow["called"] == "probability" and flow["score"] > 50 and flow["calibration"] == {"brier": good["brier"], "judged_n": 200, "horizon_s": 30}
    place = calibration._bin(flow["score"])
    assert flow["probability"]["value"] == good["bins"][place]["share"] and flow["probability"]["n"] == good["bins"][place]["n"]
    assert flow["probability"]["value"] is not None or flow["probability"]["reason"]
    few = answered(leaning, {**good, "called": "score", "reason": "99 calls"})
    assert few["order_flow"]["called"] == "score" and few["order_flow"]["called_reason"] == "99 calls" and "probability" not in few["order_flow"]
    moment = folded(leaning)
    moment.calibrations = {"BTCUSDT": good}
    assert order_flow_signal(moment.view("BTCUSDT"), 45)["called"] == "score", "another window was not judged"
    brief = analyse_moment(moment, "BTCUSDT", detail="brief")
    assert brief["order_flow"]["called"] == "probability" and "probability" in brief["order_flow"]
    assert OUTPUTS["analyse_symbol"]["properties"]["order_flow"]["properties"]["called"]["enum"] == ["score", "probability"]


def test_the_calibration_is_in_the_key_where_it_is_used_and_only_there(good, leaning):
    bare, told, other = answered(leaning, None), answered(leaning, good), answered(leaning, {**good, "brier": 0.2})
    assert len({each["key"] for each in (bare, told, other)}) == 3
    assert canonical(answered(leaning, good)) == canonical(told)
    first = folded(leaning).first_ns
    for unfit in ({"to_ns": first}, {"venues": ["binance_spot"]}, {"score_code": "0" * 12}):
        assert canonical(answered(leaning, {**good, **unfit})) == canonical(bare), unfit
    assert good["score_code"] == score_code()
    moment = folded(leaning)
    before = trend_answer(moment, "BTCUSDT", 40)
    moment.calibrations = {"BTCUSDT": good}
    assert trend_answer(moment, "BTCUSDT", 40) == before, "the trend has no use for it"


def test_the_tools_read_the_newest_one(good, generated, tmp_path):
    (tmp_path / "sessions").symlink_to(generated.session.path.parent)
    library = Library(tmp_path)
    bare = library.get_order_flow("BTCUSDT")
    publish(tmp_path, {**good, "venues": sorted({each.venue for each in generated.session.instruments})})
    assert library.get_order_flow("BTCUSDT")["order_flow"]["called"] == "probability"
    (tmp_path / FILE).write_text(json.dumps({}))
    assert library.get_order_flow("BTCUSDT") == bare
    (tmp_path / FILE).write_text("x")
    with pytest.raises(BadInput, match="is no calibration"):
        library.get_order_flow("BTCUSDT")


def test_measure_publishes_what_later_answers_say(tmp_path, capsys, monkeypatch):
    """Two sessions measured, the third asked: the score of the third is called by what the first two gave."""
    monkeypatch.setattr(calibration, "LEAST", 3)
    for day in range(3):
        made = generate(MarketConfig(seed=day + 1, duration_s=250.0, start_ns=START_NS + day * 86_400 * 10**9), tmp_path / f"m{day}")
        import_files([made.capture, made.ticks], tmp_path, name=f"d{day}")
    entries = ["--entries", "every=10s,side=both,sl=5bps,tp=5bps,max=20s,start=40s", "--rules", "whale", "--draws", "99", "--data", str(tmp_path)]
    assert main(["measure", "d0", *entries, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)["calibration"]
    assert one["brier"] is None and one["reason"] and not (tmp_path / FILE).exists()
    assert main(["measure", "d1", "d0", *entries]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = published(tmp_path)["BTCUSDT"]
    assert found["sessions"] == ["d0", "d1"] and found["judged_n"] >= 3 and found["brier"] is not None
    assert found["sentence"] in printed and found["sentence"][:60] in next((tmp_path / "reports").glob("d1*.html")).read_text()
    library = Library(tmp_path)
    for session, reason in (("d2", found["reason"]), ("d1", NOT_CALIBRATED), ("d0", NOT_CALIBRATED)):
        flow = library.get_order_flow("BTCUSDT", session=session, detail="full")["order_flow"]
        assert flow["called"] == "score" and flow["called_reason"] == reason, "what a session was fitted on is no sample for it"


def test_measure_rules_tells_the_newest_calibration(good, generated, tmp_path):
    (tmp_path / "sessions").symlink_to(generated.session.path.parent)
    asked = {"session": "gen", "rules": "whale", "entries": "every=5s,side=both,sl=10bps,tp=15bps,max=30s", "draws": 99}
    library = Library(tmp_path)
    bare = library.measure_rules(**asked)["calibration"]
    assert bare["brier"] is None and "two sessions" in bare["reason"] and bare["called"] == "score" and published(tmp_path) == {}
    publish(tmp_path, good)
    told = library.measure_rules(**asked)["calibration"]
    assert told["called"] == "probability" and told["brier"] == good["brier"] and told["judged_n"] == 200
    publish(tmp_path, {**good, "score_code": "0" * 12})
    assert library.measure_rules(**asked)["calibration"] == bare, "a calibration of other code says nothing of this score"
