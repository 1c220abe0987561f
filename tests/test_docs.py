"""The README says what is so: its commands exist, its JSON keys are those printed, its first block is what CI runs."""

import argparse
import contextlib
import io
import json
import re
import subprocess
from pathlib import Path

import pytest

from engine.cli import build_parser, main
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = "every=10s,side=both,sl=5bps,tp=5bps,max=20s,start=40s"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    return next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)).choices


def documented(command: str) -> set[str]:
    """Return the keys README's table lists for a command, nested ones left out."""
    keys, inside = set(), False
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 3:
            inside = False
            continue
        if cells[0]:
            inside = cells[0] == command
        if inside:
            keys |= set(re.findall(r"`([a-z_]+)`", cells[1]))
            if cells[1] == "a list of":
                keys |= set(re.findall(r"`([a-z_]+)`", re.split(r": `complete|\(then", cells[2])[0]))
    return keys


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> dict:
    """Return what each command prints as JSON on a small generated session."""
    folder = tmp_path_factory.mktemp("docs")
    made = generate(MarketConfig(seed=5, duration_s=120.0), folder / "market")
    data = ["--data", str(folder / "data"), "--json"]
    calls = {"import": ["import", str(made.capture), str(made.ticks), "--name", "small"], "sessions": ["sessions"],
             "check": ["check", "small"],
             "replay": ["replay", "small", "--entries", ENTRIES],
             "measure": ["measure", "small", "--entries", ENTRIES, "--draws", "99", "--report", str(folder / "report.html")],
             "sweep": ["sweep", "small", "--entries", ENTRIES, "--rules", "whale", "--grid", "whale.fresh_ms=500,1000", "--workers", "1"]}
    results = {}
    for name, call in calls.items():
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main([*call, *data]) == 0
        results[name] = json.loads(out.getvalue())     # fails when anything else is printed
    return results


@pytest.mark.parametrize("command", ["import", "sessions", "check", "replay", "measure", "sweep"])
def test_every_printed_key_is_documented_and_every_documented_key_printed(printed, command):
    result = printed[command]
    keys = set(result[0] if command == "sessions" else result)
    told = documented(command) - {"problem"}
    assert told - keys == set(), "README documents keys that are not printed"
    assert keys - told == set(), "these printed keys are not in README"


def test_units_of_the_printed_values(printed):
    check, replay, done = printed["check"], printed["replay"], printed["import"]
    assert done["first_recv_ns"] < done["last_recv_ns"] < 2**63
    assert all(isinstance(count, int) for count in done["rows"].values())
    assert all(0 <= share <= 1 for share in check["coverage"].values())
    assert set(check["clock"]["recv_minus_event_ms"]) == {"min", "median", "max"}
    assert re.fullmatch("[0-9a-f]{64}", replay["digest"]) and replay["quotes"] == "recorded"
    assert all(set(counts) == {"alert", "tighten", "partial", "close"} for counts in replay["by_rule"].values())
    assert replay["fills"]["entered"] >= replay["trades"] > 0


def test_every_command_is_in_the_readme_and_has_help():
    for name, parser in commands().items():
        assert f"tapeguard {name}" in README, name
        assert parser.description
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"


def test_the_first_block_is_two_commands_and_ci_runs_the_second():
    block = re.search(r"```sh\n(.*?)```", README, re.S)[1].strip().splitlines()
    assert len(block) == 2 and all(line.startswith("pip install uv && uv run ") for line in block)
    assert block[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_options_named_in_the_readme_exist():
    known = {option for parser in commands().values() for action in parser._actions for option in action.option_strings}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert used <= known, used - known


def test_the_rule_shown_is_the_file():
    shown = re.search(r"```python\n(.*?)```", README, re.S)[1]
    assert shown in (ROOT / "strategies" / "exit_rules" / "tighter_stop.py").read_text(encoding="utf-8")


def test_changelog_has_the_version():
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert f"## {version} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_what_programs_leave_is_ignored_and_told():
    left = ["live/first.json", "runs/x/live.json", "sessions/x/manifest.json", "reports/x.html", "journals/x.zst", "ledger.jsonl", "symbols.json",
            "calibration.json"]
    told = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name.partition('/')[0]}" in told for name in left)
    names = [*(f"data/{name}" for name in left), "terminal.address.json"]
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert ignored == names


def test_nothing_names_a_registry_or_a_machine():
    for name in ("requirements.lock", "pyproject.toml", "README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text, name
