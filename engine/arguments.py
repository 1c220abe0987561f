"""What each command takes: names, options and their help."""

import argparse
import contextlib
import math
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from engine.errors import BadInput


class Parser(argparse.ArgumentParser):
    """Refuses wrong arguments in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, without the usage."""
        raise BadInput(f"{message}; {self.prog} --help says what is right")


def number(least: float, most: float, *, above: bool = False, whole: bool = False) -> Callable[[str], float]:
    """Return what reads a number from `least` (above it, if asked) to `most`; nan is none."""
    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = int(text) if whole else float(text)
            if least <= value <= most and not (above and value == least):
                return value
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} will not do: a {'whole ' if whole else ''}number {'above' if above else 'from'} {least:,}"
            f"{f' to {most:,}' if math.isfinite(most) else ''} is right")
    return read


def step(text: str) -> str:
    """Read the size of a step, as text: decimals are taken exactly."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) and float(text) > 0:
        return text
    raise argparse.ArgumentTypeError(f"{text[:40]!r} will not do: a decimal number above 0, such as 0.01, is right")


def port(text: str) -> int:
    """Read the number of a port, 0 for any that is free."""
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no port; it is a whole number from 0, any free one, to 65535")
    return int(text)


def words(text: str) -> tuple[str, ...]:
    """Read a command line; on Windows a backslash is part of a path."""
    return tuple(word.strip('"') for word in shlex.split(text, posix=os.name != "nt"))


def pairs(texts: list[str], option: str, right: str, upper: bool = True) -> dict[str, str]:
    """Return NAME=VALUE texts as names and values, symbols in upper case; `right` says how they are written."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise BadInput(f"{option} {text}: write it as {right}")
        found[name.upper() if upper else name] = value
    return found


MAP = "VENUE=BROKER, such as BTCUSDT=BTCUSDm"
SEED = number(0, 2**63 - 1, whole=True)
COUNT = number(0, 10**9, whole=True)
SPAN_MS = number(0, 86_400_000)
POSITIVE = number(0, 10**9, above=True)
HOURS = number(-14, 14)                # that a broker's clock may be off UTC


def build(functions: dict[str, Callable]) -> argparse.ArgumentParser:
    """Return the parser of every command; `functions` runs each by its name."""
    parser = Parser(
        prog="tapeguard",
        description="Record order flow, replay it through one loop, and measure exit rules for MetaTrader 5 positions.",
    )
    parser.add_argument("--version", action="store_true", help="say which version this is")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("TAPEGUARD_DATA", "data")),
        metavar="DIR",
        help="data root (default: TAPEGUARD_DATA, else ./data)",
    )
    shared.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[shared], help=text, description=text)
        sub.set_defaults(command=functions[name])
        return sub

    add_demo(command)
    add_recording(command)
    add_sessions(command)
    add_replay(command)
    add_analysis(command)
    add_measuring(command)
    add_doctor(command)
    add_live(command)
    return parser


def add_demo(command: Callable) -> None:
    """Add the demo."""
    sub = command("demo", "generate a seeded market, record it, replay and measure every rule on it; no network, no account")
    sub.add_argument("--seed", type=SEED, default=1, help="of the generated market (default: 1)")
    sub.add_argument("--minutes", type=number(4, 600), default=15.0, help="length of the market (default: 15)")


def add_recording(command: Callable) -> None:
    """Add what makes sessions: recording, importing, and the simulated exchange."""
    sub = command("record", "record Binance live into a session; Ctrl-C ends with a checked session")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help="venue symbols such as BTCUSDT")
    sub.add_argument("--venue", choices=["binance_usdm", "binance_spot"], default="binance_usdm", help="default: binance_usdm")
    sub.add_argument("--name", help="session name (default: symbols, venue and time)")
    sub.add_argument(
        "--stream", choices=["trade", "aggTrade"], default="trade", help="trades one by one, or aggregated (default: trade)"
    )
    sub.add_argument("--seconds", type=POSITIVE, help="stop after this long (default: at Ctrl-C)")
    sub.add_argument(
        "--keep", choices=["drop", "zstd", "raw"], default="drop", help="what becomes of the journal (default: drop)"
    )
    sub.add_argument("--sync-ms", type=SPAN_MS, default=50.0, help="most that a power loss can take (default: 50)")
    sub.add_argument("--reserve-gb", type=number(0, 1e9), default=2.0, help="stop before less than this is free on the disk (default: 2)")
    sub.add_argument("--ws", help="another WebSocket base, such as that of tapeguard sim exchange")
    sub.add_argument("--rest", help="another REST base")
    sub.add_argument("--quiet", action="store_true", help="no live table")
    sub.add_argument("--json-lines", action="store_true", help="one JSON line of status a second on standard error, for services")
    sub.add_argument("--terminal", metavar="NAME", help="the broker's quotes and positions too: MetaTrader5, or simulated:@ADDRESS.json")
    add_terminal(sub)
    # with a terminal it is a live run without rules
    sub.set_defaults(mode="record", rules="none", set=[], rules_dir=None, account=None, actions_per_minute=None, actions_per_day=None,
                     max_share=None, max_spread_bps=None, max_quote_age_s=None, latency_ms=250.0, cooldown_ms=1000.0, hold_back_s=10.0,
                     webhook=None, full_screen=False)
    sub = command("sim", "on loopback: an exchange that replays a capture with faults, or a MetaTrader 5 terminal")
    sub.add_argument("what", choices=["exchange", "terminal"], help="what to simulate")
    sub.add_argument("files", nargs="*", type=Path, metavar="FILE", help="captures of the exchange; JSON configuration of the terminal")
    sub.add_argument(
        "--speed", type=number(0, math.inf, above=True), default=1.0,
        help="tape seconds a second; inf: as fast as clients take it (default: 1)"
    )
    sub.add_argument("--port", type=port, default=0, help="on loopback (default: a free one)")
    sub.add_argument("--loop", action="store_true", help="play again at the end")
    sub.add_argument("--venue", choices=["binance_usdm", "binance_spot"], help="exchange: where the captures do not say")
    sub.add_argument("--fault", action="append", default=[], metavar="KIND=PER_MINUTE", help="seeded faults; may be repeated")
    sub.add_argument("--script", type=Path, metavar="JSON",
                     help='scripted faults: a list such as [{"at_s": 10, "kind": "drop", "stream": "*@depth*"}]')
    sub.add_argument("--seed", type=SEED, default=1, help="of the faults (default: 1)")
    sub.add_argument("--follow", metavar="WS_URL", help="terminal: no FILE, but a demo account led by BTCUSDT at this socket")
    sub.add_argument(
        "--address",
        type=Path,
        metavar="JSON",
        help="terminal: where to write how programs reach it (default: FILE with .address.json, else terminal.address.json)",
    )
    sub = command("import", "turn recorded files into one session")
    sub.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="capture lines, cryptofeed, Binance archive, tardis.dev CSV, MT5 ticks; formats are told by content",
    )
    sub.add_argument("--name", help="session name (default: symbols and time)")
    sub.add_argument("--symbol", help="the only symbol that may be in the files")
    sub.add_argument("--venue", choices=["binance_usdm", "binance_spot"], help="where the files do not say")
    sub.add_argument(
        "--tick", action="append", default=[], metavar="SYMBOL=SIZE", help="price tick (default: the step that fits every price)"
    )
    sub.add_argument("--lot", action="append", default=[], metavar="SYMBOL=SIZE", help="quantity step (default: likewise)")
    sub.add_argument(
        "--latency-ms", type=SPAN_MS, default=0.0, help="added to venue time where files hold no receive time (default: 0)"
    )
    sub.add_argument("--server-offset", type=HOURS, metavar="HOURS",
                     help="broker clock of MT5 tick exports minus UTC, where the file cannot tell")
    sub.add_argument("--skip-limit", type=COUNT, default=100, help="malformed lines skipped before the import fails (default: 100)")


def add_sessions(command: Callable) -> None:
    """Add what looks at sessions and rules."""
    command("sessions", "list the sessions")
    sub = command("check", "verify hashes, sequence, gaps, the book against the venue's best quotes, and the clock")
    sub.add_argument("session", metavar="SESSION", help="name or folder")
    sub = command("sql", "ask a question of a session's tables, in SQL (DuckDB)")
    sub.add_argument("session", metavar="SESSION", help="name or folder")
    sub.add_argument("query", metavar="QUERY", help='such as "select side, sum(qty) from trades group by side"')
    sub = command("rules", "list the exit rules, their presets and parameters")
    sub.add_argument("--rules-dir", type=Path, metavar="DIR", help="a folder of your own rule files")


def add_analysis(command: Callable) -> None:
    """Add the analysis for a person and for a model."""
    sub = command("analyse", "order flow first, at any moment of a session: one screen, or JSON")
    sub.add_argument("session", metavar="SESSION", help="name or folder")
    sub.add_argument("symbol", metavar="SYMBOL", help="venue or broker symbol")
    sub.add_argument("--at", metavar="TIME", help="+120s from the start, ISO time, or ns (default: the end)")
    sub.add_argument("--direction", choices=["BUY", "SELL", "HOLD"], help="the recommendation to hold it against")
    sub = command("mcp", "the same for a model, over MCP: read-only, no tool can trade")
    sub.add_argument("--transport", choices=["stdio", "http"], default="stdio", help="default: stdio")
    sub.add_argument("--port", type=port, default=0, help="for http, on loopback (default: a free one)")


def add_replay(command: Callable) -> None:
    """Add the replay."""
    sub = command("replay", "replay a session: what each rule decides, what the fills would have been, and a digest")
    sub.add_argument("session", nargs="?", metavar="SESSION", help="name or folder")
    add_plan(sub).add_argument("--again", type=Path, metavar="RUN", help="repeat a run from its own folder and compare digests")
    sub.add_argument("--recorded-exits", action="store_true", help="close trades when the file says they were closed")


def add_measuring(command: Callable) -> None:
    """Add measuring and sweeping."""
    sub = command("measure", "trades saved by each rule, against matched random exits: table, JSON, HTML report")
    sub.add_argument("session", nargs="+", metavar="SESSION", help="names or folders")
    add_plan(sub)
    sub.add_argument("--seed", type=SEED, default=1, help="of every random draw (default: 1)")
    sub.add_argument("--draws", type=number(99, 10**6, whole=True), default=999, help="random exits drawn for each p-value (default: 999)")
    sub.add_argument(
        "--report", type=Path, metavar="FILE", help="HTML report (default: measure.html under the data root's reports)"
    )
    sub = command("sweep", "try many parameter sets in one pass; every set is counted, the winner's luck is taken off")
    sub.add_argument("session", nargs="+", metavar="SESSION", help="names or folders")
    add_plan(sub)
    sub.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="RULE.PARAM=A:B:N",
        help="N values from A to B, or A:B:N:log, or a list 1,2,3; may be repeated",
    )
    sub.add_argument("--on", choices=["local"], default="local", help="where the sets run (default: local, every core)")
    sub.add_argument("--workers", type=number(1, 1024, whole=True), default=os.cpu_count() or 1,
                     help="processes (default: one for each core)")
    sub.add_argument("--seed", type=SEED, default=1, help="of every random draw (default: 1)")


def add_doctor(command: Callable) -> None:
    """Add the doctor."""
    sub = command(
        "doctor", "check everything a user can get wrong, say how to mend it, and confirm which broker symbol is led"
    )
    sub.add_argument(
        "symbols", nargs="*", metavar="SYMBOL", help="venue symbols such as BTCUSDT (default: those confirmed)"
    )
    sub.add_argument("--terminal", default="MetaTrader5", metavar="NAME", help="MetaTrader5, or simulated:CONFIG.json")
    sub.add_argument("--path", metavar="FILE", help="terminal64.exe, where there are several terminals")
    sub.add_argument(
        "--worker-command", type=words, default=(), metavar="COMMAND",
        help='what runs the worker, such as "wine python.exe" (default: this Python)'
    )
    sub.add_argument("--account", type=number(1, 2**63 - 1, whole=True), metavar="LOGIN", help="the account that must be logged in")
    sub.add_argument(
        "--map", action="append", default=[], metavar="VENUE=BROKER", help="confirm a pair of symbols and store it"
    )
    sub.add_argument(
        "--venue", choices=["binance_usdm", "binance_spot"], default="binance_usdm", help="default: binance_usdm"
    )
    sub.add_argument("--ws", help="another WebSocket base")
    sub.add_argument("--rest", help="another REST base")
    sub.add_argument("--reserve-gb", type=number(0, 1e9), default=2.0, help="least that must be free on the disk (default: 2)")
    sub.add_argument(
        "--wait", type=number(0, 3600), default=5.0, metavar="SECONDS", help="for quotes that tell the broker's clock (default: 5)"
    )


def add_live(command: Callable) -> None:
    """Add what runs live, and what steers and verifies it."""
    sub = command("live", "the same loop, live on MetaTrader 5: record, shadow (decide, send nothing), paper, act")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help="venue symbols such as BTCUSDT")
    sub.add_argument("--mode", required=True, choices=["record", "shadow", "paper", "act"], help="what may happen; act sends orders")
    sub.add_argument("--account", type=number(1, 2**63 - 1, whole=True), metavar="LOGIN",
                     help="the account that must be logged in; act needs it typed")
    add_rules(sub)
    sub.add_argument("--terminal", default="MetaTrader5", metavar="NAME", help="MetaTrader5, or simulated:@ADDRESS.json of tapeguard sim")
    add_terminal(sub)
    sub.add_argument("--venue", choices=["binance_usdm", "binance_spot"], default="binance_usdm", help="default: binance_usdm")
    sub.add_argument("--stream", choices=["trade", "aggTrade"], default="trade", help="default: trade")
    sub.add_argument("--ws", help="another WebSocket base, such as that of tapeguard sim exchange")
    sub.add_argument("--rest", help="another REST base")
    for name, kind, text in (("actions-per-minute", number(1, 10**6, whole=True), "most orders a minute; act needs it set"),
                             ("actions-per-day", number(1, 10**6, whole=True), "most orders in 24 hours; act needs it set"),
                             ("max-share", number(0, 1, above=True), "most of a position closed in one action, 0 to 1; act needs it set"),
                             ("max-spread-bps", number(0, 10_000, above=True), "no order while the spread is wider (default: 20)"),
                             ("max-quote-age-s", POSITIVE, "no order on an older quote (default: 5)")):
        sub.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    sub.add_argument("--latency-ms", type=SPAN_MS, default=250.0, help="of simulated fills in paper (default: 250)")
    sub.add_argument("--cooldown-ms", type=SPAN_MS, default=1000.0, help="between two actions on one position (default: 1000)")
    sub.add_argument("--hold-back-s", type=number(0, 86_400), default=10.0,
                     help="feeds must be well so long before held rules act again (default: 10)")
    sub.add_argument("--webhook", metavar="URL", help="alarms are posted there as JSON")
    sub.add_argument("--seconds", type=POSITIVE, help="stop after this long (default: at Ctrl-C)")
    sub.add_argument("--keep", choices=["drop", "zstd", "raw"], default="drop", help="what becomes of the journal (default: drop)")
    sub.add_argument("--sync-ms", type=SPAN_MS, default=50.0, help="most that a power loss can take (default: 50)")
    sub.add_argument("--reserve-gb", type=number(0, 1e9), default=2.0, help="stop before less than this is free on the disk (default: 2)")
    sub.add_argument("--quiet", action="store_true", help="no live screen")
    sub.add_argument("--full-screen", action="store_true", help="the live screen takes the whole terminal window")
    sub.add_argument("--json-lines", action="store_true", help="one JSON line of status a second on standard error, for services")
    sub = command("verify", "replay a recorded live run and compare its decisions, byte for byte; exit 0 only when none differs")
    sub.add_argument("run", nargs="?", metavar="RUN", help="name or folder (default: the newest live run)")
    sub = command("switch", "give a rule of a running live run another mode, while positions are open")
    sub.add_argument("switches", nargs="+", metavar="RULE=MODE", help="such as whale=shadow; modes off alert shadow act")
    sub.add_argument("--run", metavar="RUN", help="name or folder (default: the newest live run)")
    sub = command("kill", "stop every order of live runs at once; broker-side stops stay")
    sub.add_argument("--lift", action="store_true", help="allow orders again")


def add_terminal(sub: argparse.ArgumentParser) -> None:
    """Add how the terminal is reached, and which of its symbols are led."""
    sub.add_argument("--path", metavar="FILE", help="terminal64.exe, where there are several terminals")
    sub.add_argument("--worker-command", type=words, default=(), metavar="COMMAND",
                     help='what runs the worker, such as "wine python.exe" (default: this Python)')
    sub.add_argument("--map", action="append", default=[], metavar="VENUE=BROKER", help="confirm a pair of symbols and store it")


def add_rules(sub: argparse.ArgumentParser) -> None:
    """Add the arguments that say which rules, with which parameters."""
    sub.add_argument(
        "--rules",
        default="all",
        metavar="LIST",
        help="name[:preset][=mode], comma separated; modes off alert shadow act; or all, none (default: all)",
    )
    sub.add_argument("--set", action="append", default=[], metavar="RULE.PARAM=VALUE", help="change a parameter; may be repeated")
    sub.add_argument("--rules-dir", type=Path, metavar="DIR", help="a folder of your own rule files")


def add_plan(sub: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add the arguments that say which trades, which rules and which fills; return the group the trades belong to."""
    source = sub.add_mutually_exclusive_group()
    source.add_argument("--trades", type=Path, metavar="FILE", help="trades as CSV, or an MT5 history report (HTML, XLSX)")
    source.add_argument("--entries", metavar="SPEC", help="systematic entries: every=10s,side=both,sl=20bps,tp=30bps,max=300s")
    add_rules(sub)
    sub.add_argument(
        "--quotes",
        default="",
        metavar="SPEC",
        help="model broker quotes where none were recorded: spread=2bps,basis=0bps,lag=100ms,tick=0.01",
    )
    sub.add_argument("--model-quotes", action="store_true", help="model them even where some were recorded")
    sub.add_argument("--latency-ms", type=SPAN_MS, default=250.0, help="decision to fill (default: 250)")
    sub.add_argument(
        "--slippage-ticks", type=COUNT, default=0, help="against the trader on market exits, broker ticks (default: 0)"
    )
    sub.add_argument("--cooldown-ms", type=SPAN_MS, default=1000.0, help="between two actions on one position (default: 1000)")
    sub.add_argument("--volume-step", type=step, default="0.01", help="lots (default: 0.01)")
    sub.add_argument(
        "--server-offset", type=HOURS, default=0.0, metavar="HOURS", help="broker clock of an MT5 report minus UTC (default: 0)"
    )
    sub.add_argument(
        "--chunk", type=COUNT, default=0, metavar="ROWS", help="events fed at once; decisions do not depend on it (0: as stored)"
    )
    return source
