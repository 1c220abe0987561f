"""The example services start the command as it is."""

import argparse
import configparser
import re
from pathlib import Path

from engine.arguments import build

DEPLOY = Path(__file__).parents[1] / "deploy"


class Names(dict):
    """Gives each command its name for a function."""

    def __missing__(self, name: str) -> str:
        return name


def parsed(arguments: list[str]) -> argparse.Namespace:
    return build(Names()).parse_args(arguments)


def test_the_systemd_unit_records_for_a_service():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / "tapeguard-record.service")
    service = unit["Service"]
    program, *arguments = service["ExecStart"].split()
    args = parsed(arguments)
    assert Path(program).name == "tapeguard" and args.command == "record" and args.json_lines and args.symbols
    assert service["KillSignal"] == "SIGINT" and service["RestartPreventExitStatus"] == "2"
    assert f"TAPEGUARD_DATA=/var/lib/{service['StateDirectory']}" in service["Environment"].split()


def test_the_windows_task_records_for_a_service():
    script = (DEPLOY / "register-recorder.ps1").read_text()
    line = re.search(r'^\$arguments = "(record .*)"$', script, re.M)[1]
    line = line.replace("$($Symbols -join ' ')", "BTCUSDT ETHUSDT").replace('`"$Data`"', "C:/data")
    assert "$" not in line
    args = parsed(line.split())
    assert args.command == "record" and args.quiet and args.symbols == ["BTCUSDT", "ETHUSDT"]
    assert Path(args.data) == Path("C:/data")
