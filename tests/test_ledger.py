"""The trial ledger: what is written is read, a torn end is mended, two processes may write, and configurations are
counted once."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, SourceFailed
from engine.measure.ledger import Trial, acting_rules, append, count_tried, ledger_path, read, settings_dict
from engine.rules import choose, find_rules
from engine.run import Settings

WRITER = """
import sys
from pathlib import Path
from engine.measure.ledger import Trial, append
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for n in range(count):
    rules = {name: {"preset": "p", "params": {"x": n}}}
    append(path, [Trial("test", rules, {}, "t", ("s",), (float(n),), float(n), 1, 0)] * 3)
"""


def trial(x: float = 1.0, sessions: tuple[str, ...] = ("one",), trades: str = "every=10s", rule: str = "whale",
          preset: str = "robust") -> Trial:
    """Return a trial of one rule with one parameter."""
    return Trial("sweep", {rule: {"preset": preset, "params": {"x": x}, "code": "c"}}, {"latency_ns": 1}, trades,
                 sessions,
                 (0.1,) * len(sessions), 0.1, 9, 2)


def test_what_is_written_is_read(tmp_path: Path):
    path = ledger_path(tmp_path / "data")
    assert read(path).lines == [] and count_tried(path) == 0
    assert append(path, [trial(1.0), replace(trial(2.0), session_delta_r=(None,), mean_delta_r=None)]) is None
    first, second = read(path).lines
    assert first["rules"]["whale"]["params"] == {"x": 1.0} and first["session_delta_r"] == [0.1] and first["count"] == 9
    assert second["session_delta_r"] == [None] and second["mean_delta_r"] is None
    assert first["time_ns"] == second["time_ns"] > 0
    assert first["id"] == trial(1.0).id != second["id"] and path.read_bytes().endswith(b"\n")


def test_a_configuration_counts_once_whatever_the_session_preset_or_repetition(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    append(path, [trial(1.0), trial(1.0), trial(1.0, ("two", "three")), trial(1.0, preset="classic")])
    assert count_tried(path) == 1 and len({line["id"] for line in read(path).lines}) == 3
    append(path, [trial(2.0), trial(1.0, trades="every=20s"), trial(1.0, rule="void")])
    assert count_tried(path) == 4
    assert count_tried(path, "every=10s") == 3 and count_tried(path, "every=20s") == 1 and count_tried(path, "no") == 0
    assert count_tried(path, rules={"void"}) == 1 and count_tried(path, "every=10s", {"whale"}) == 2


def test_settings_and_the_code_of_a_rule_make_another_configuration():
    changed = {"whale": {"preset": "robust", "params": {"x": 1.0}, "code": "d"}}
    found = {trial().configuration, replace(trial(), settings={"latency_ns": 2}).configuration,
             replace(trial(), rules=changed).configuration}
    assert len(found) == 3


def test_only_rules_that_act_are_written_down():
    rules = acting_rules(choose(find_rules(), "whale:classic,void=shadow", ["whale.large_usd=600000"]))
    assert list(rules) == ["whale"] and rules["whale"]["preset"] == "classic"
    assert rules["whale"]["params"]["large_usd"] == 600_000.0
    json.dumps(settings_dict(Settings()))


def test_keys_not_known_are_kept_and_a_line_without_a_needed_one_is_named(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    append(path, [trial()])
    line = read(path).lines[0] | {"of_a_later_version": {"a": 1}}
    path.write_text(json.dumps(line) + "\n")
    assert read(path).lines[0]["of_a_later_version"] == {"a": 1} and count_tried(path) == 1
    del line["configuration"]
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(BadInput, match=r"ledger\.jsonl, line 1: configuration is None, not a text"):
        read(path)


@pytest.mark.parametrize("bad", ["{torn", "[1]", "7", "\x00\x00"])
def test_a_bad_line_within_names_file_and_line(tmp_path: Path, bad: str):
    path = tmp_path / "ledger.jsonl"
    append(path, [trial(1.0)])
    with open(path, "a", encoding="utf-8") as file:
        file.write(bad + "\n")
    append(path, [trial(2.0)])
    with pytest.raises(BadInput, match=r"ledger\.jsonl, line 2: .* is not a JSON object"):
        count_tried(path)


def test_an_empty_line_does_no_harm(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    append(path, [trial(1.0)])
    path.write_bytes(path.read_bytes() + b"\n\r\n")
    append(path, [trial(2.0)])
    assert count_tried(path) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000))
def test_a_ledger_torn_anywhere_keeps_every_whole_line_and_goes_on(tmp_path: Path, cut: int):
    path = tmp_path / "ledger.jsonl"
    path.unlink(missing_ok=True)
    append(path, [trial(1.0), trial(2.0), trial(3.0)])
    whole = path.read_bytes()
    cut = min(cut, len(whole))
    path.write_bytes(whole[:cut])
    ends = [n + 1 for n, byte in enumerate(whole) if byte == 10]
    kept = sum(end - 1 <= cut for end in ends)      # a line that lacks only its end is whole
    torn = cut not in (0, *ends) and cut + 1 not in ends
    found = read(path)
    assert len(found.lines) == kept and (found.note is not None) == torn
    note = append(path, [trial(4.0)])
    assert (note is None) == (cut in (0, *ends)) and (note is None or str(path) in note)
    assert [line["rules"]["whale"]["params"]["x"] for line in read(path).lines] == [1.0, 2.0, 3.0][:kept] + [4.0]
    assert read(path).note is None


def test_two_processes_may_write_at_once(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, "40"]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = read(path)
    assert len(found.lines) == 240 and found.note is None and count_tried(path) == 80
    order = [next(iter(line["rules"])) for line in found.lines]
    assert all(len(set(order[n:n + 3])) == 1 for n in range(0, 240, 3))


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceFailed, match="cannot write the trial ledger"):
        append(tmp_path / "file" / "ledger.jsonl", [trial()])
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceFailed, match="cannot read the trial ledger"):
        read(tmp_path / "folder")


def test_a_result_that_is_no_number_is_never_written(tmp_path: Path):
    with pytest.raises(ValueError):
        append(tmp_path / "ledger.jsonl", [replace(trial(), mean_delta_r=float("nan"))])
    assert not (tmp_path / "ledger.jsonl").exists()
