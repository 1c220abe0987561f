"""What the command line takes: numbers within their bounds, one sentence for what is wrong, and a version."""

from importlib import metadata

import pytest
from replays import fails

from engine.cli import main


def test_the_version_is_said(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"tapeguard {metadata.version('tapeguard')}\n"


@pytest.mark.parametrize("arguments, words", [
    (["live", "BTCUSDT"], "--mode; tapeguard live --help says"), (["live", "BTCUSDT", "--mode", "atc"], "'atc' (choose from"),
    (["nosuch"], "'nosuch'"), (["check"], "SESSION; tapeguard check --help"), (["sessions", "--nosuch"], "--nosuch; tapeguard --help")])
def test_what_is_wrong_is_one_sentence_without_the_usage(capsys, arguments, words):
    said = fails(capsys, *arguments)
    assert words in said and "usage:" not in said
