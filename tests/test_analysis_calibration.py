"""The score against what followed: judged out of sample only, each look once, never called more than it is."""

import math

import pytest

from engine.analysis import calibration
from engine.analysis.calibration import EDGES, Call, calibrate
from engine.errors import BadInput


def judged_by(monkeypatch, parts: list[list[Call]]) -> dict:
    """Calibrate on calls made up, one list a session."""
    class Made:
        def __init__(self, number: int):
            self.id, self.manifest = f"s{number}", {"first_recv_ns": number}
    monkeypatch.setattr(calibration, "calls_of", lambda session, number, *rest: parts[number])
    return calibrate([Made(number) for number in reversed(range(len(parts)))], "BTCUSDT")


def calls(number: int, score: float, right: int, wrong: int) -> list[Call]:
    return [Call(number, n, score, n < right) for n in range(right + wrong)]


def test_shares_are_of_earlier_sessions_and_judged_on_later_ones(monkeypatch):
    made = judged_by(monkeypatch, [calls(0, 60.0, 79, 19), calls(1, -60.0, 150, 100)])
    bins = {entry["from"]: entry for entry in made["bins"]}
    assert bins[50.0]["n"] == 250 and bins[50.0]["right"] == 150 and bins[50.0]["share"] == 0.6
    assert made["brier"] == pytest.approx((150 * 0.2**2 + 100 * 0.8**2) / 250) and made["brier_of_a_coin"] == 0.25
    assert made["called"] == "score", "worse than a coin, however many"
    low, high = bins[50.0]["ci95"]
    assert low < 0.6 < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.24 / 250), rel=0.05)


def test_it_is_called_a_probability_only_when_there_are_enough_and_it_beats_a_coin(monkeypatch):
    good = judged_by(monkeypatch, [calls(0, 60.0, 80, 20), calls(1, 60.0, 160, 40)])
    assert good["called"] == "probability" and good["reason"] is None and good["brier"] < 0.25
    few = judged_by(monkeypatch, [calls(0, 60.0, 80, 20), calls(1, 60.0, 80, 19)])
    assert few["called"] == "score" and "99 calls" in few["reason"]


def test_one_session_is_fitted_on_its_first_half(monkeypatch):
    made = judged_by(monkeypatch, [calls(0, 10.0, 6, 4)])
    assert made["fitted_n"] == made["judged_n"] == 5 and made["bins"][0]["n"] == 5


def test_every_size_of_a_score_has_a_bin():
    assert [calibration._bin(size) for size in (0.1, 20, 20.1, -35, 50, -69, 70.1, 100)] == [0, 0, 1, 1, 2, 3, 4, 4] and len(EDGES) == 6


def test_looks_at_a_recording_do_not_overlap(generated):
    made = calibration.calls_of(generated.session, 0, "BTCUSDT", 30, 10)
    times = [call.at_ns for call in made]
    assert len(made) >= 8 and all(later - earlier >= 10 * 10**9 for earlier, later in zip(times, times[1:], strict=False))
    assert calibrate([generated.session], "btcusdt", "M5", 10)["judged_n"] == len(made) - len(made) // 2
    with pytest.raises(BadInput, match="horizon"):
        calibrate([generated.session], "BTCUSDT", 30, 0)
