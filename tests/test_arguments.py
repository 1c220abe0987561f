"""What the command line takes: numbers within their bounds, one sentence for what is wrong, and a version."""

import argparse
import os
import signal
from importlib import metadata

import pytest
from live_runs import Command, wait_for
from replays import fails

from engine.cli import build_parser, main
from engine.demo import recorded
from engine.errors import BadInput
from engine.measure.market_model import MarketConfig


def test_two_demos_at_once_share_the_session(tmp_path):
    def say(text: str) -> None:
        if text.startswith("recording"):
            recorded(tmp_path, "demo", config, lambda text: None)
    config = MarketConfig(seed=3, duration_s=20.0)
    recorded(tmp_path, "demo", config, say)
    assert [path.name for path in (tmp_path / "sessions").iterdir()] == ["demo"]


def test_the_version_is_said(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"tapeguard {metadata.version('tapeguard')}\n"


@pytest.mark.parametrize("arguments, words", [
    (["live", "BTCUSDT"], "--mode; tapeguard live --help says"), (["live", "BTCUSDT", "--mode", "atc"], "'atc' (choose from"),
    (["nosuch"], "'nosuch'"), (["check"], "SESSION; tapeguard check --help"), (["sessions", "--nosuch"], "--nosuch; tapeguard --help")])
def test_what_is_wrong_is_one_sentence_without_the_usage(capsys, arguments, words):
    said = fails(capsys, *arguments)
    assert words in said and "usage:" not in said


def numbers() -> list[tuple[str, str]]:
    """Return every option of every command whose value is read as a number."""
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
    return [(name, action.option_strings[0]) for name, parser in commands.items() for action in parser._actions
            if action.option_strings and callable(action.type) and action.type.__name__ in ("read", "port", "step", "int", "float")]


REQUIRED = {"live": ["BTCUSDT", "--mode", "shadow"], "record": ["BTCUSDT"], "sim": ["exchange", "x"], "import": ["x"], "measure": ["x"],
            "sweep": ["x", "--grid", "a.b=1"]}


def test_every_option_that_is_a_number_is_looked_at():
    assert len(numbers()) > 40 and {"--max-share", "--volume-step", "--port", "--wait"} <= {option for _, option in numbers()}


@pytest.mark.parametrize("command, option", numbers(), ids="".join)
def test_a_number_that_is_none_or_out_of_bounds_is_refused(capsys, command, option):
    huge = [] if (command, option) == ("sim", "--speed") else ["1e999", "1e300", "9" * 5000]     # as fast as can be is inf there
    for text in ["nan", "-nan", "-inf", "", "many", "-99", *huge]:
        said = fails(capsys, command, *REQUIRED.get(command, []), f"{option}={text}")
        assert f"argument {option}: " in said and ("is right; " in said or "to 65535; " in said)


@pytest.mark.parametrize("option", ["--max-share", "--max-spread-bps", "--max-quote-age-s", "--actions-per-minute", "--actions-per-day",
                                    "--seconds"])
def test_a_limit_that_is_zero_is_refused(capsys, option):
    assert "'0' will not do" in fails(capsys, "live", "BTCUSDT", "--mode", "act", option, "0")


def test_what_is_within_bounds_is_taken_as_it_is():
    parse = build_parser().parse_args
    live = parse(["live", "BTCUSDT", "--mode", "act", "--max-share", "1", "--sync-ms", "0", "--hold-back-s", "0", "--actions-per-day", "20"])
    assert (live.max_share, live.sync_ms, live.hold_back_s, live.actions_per_day) == (1.0, 0.0, 0.0, 20)
    assert parse(["replay", "x", "--volume-step", "0.10"]).volume_step == "0.10"
    assert parse(["replay", "x", "--server-offset", "-4.5"]).server_offset == -4.5
    assert parse(["sim", "exchange", "x", "--speed", "inf"]).speed == float("inf")
    with pytest.raises(BadInput, match="'1.01' will not do: a number above 0 to 1 is right"):
        parse(["live", "BTCUSDT", "--mode", "act", "--max-share", "1.01"])


def test_a_command_that_is_cut_off_is_named(capsys):
    assert "--worker-command" in fails(capsys, "live", "BTCUSDT", "--mode", "shadow", "--worker-command", "'wine python.exe")


def test_a_data_root_that_cannot_be_used_is_named(capsys, tmp_path):
    """A file where the folder should be: nobody may write there, the superuser neither."""
    (tmp_path / "file").write_text("")
    (tmp_path / "terminal.json").write_text("{}")
    said = fails(capsys, "live", "BTCUSDT", "--mode", "shadow", "--terminal", f"simulated:{tmp_path / 'terminal.json'}",
                 "--data", str(tmp_path / "file"), code=3)
    assert str(tmp_path / "file") in said and "--data" in said


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
def test_ctrl_c_has_an_exit_code_of_its_own(tmp_path):
    demo = Command(tmp_path, "demo", "demo", "--minutes", "60", "--data", str(tmp_path))
    try:
        wait_for(lambda: "generating" in demo.said(), 60, "it generates")
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130 and demo.said().splitlines()[-1] == "tapeguard: stopped" and "Traceback" not in demo.said()
    finally:
        demo.kill()


@pytest.mark.parametrize("arguments, words", [
    (["live", "BTCUSDT", "--mode", "shadow", "--map", "BTCUSDT"], "VENUE=BROKER, such as BTCUSDT=BTCUSDm"),
    (["import", "x", "--tick", "BTCUSDT"], "SYMBOL=SIZE, such as BTCUSDT=0.1"), (["verify", "nosuch"], "there is none"),
    (["sim", "terminal", "--follow", "foo"], "--follow foo: the address of a socket is right, such as ws://127.0.0.1:9000/public")])
def test_the_example_is_of_what_was_asked(capsys, tmp_path, arguments, words):
    assert words in fails(capsys, *arguments, "--data", str(tmp_path))
