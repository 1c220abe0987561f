"""The doctor's look at the terminal: worker, terminal, account, and the broker's clock."""

import json
import subprocess
import sys
from pathlib import Path

from engine import clock
from engine.errors import SourceFailed
from engine.finding import FAIL, OK, SKIPPED, WARN, Finding
from engine.gateway.client import CONNECT_S, LinkLost, WorkerLink
from engine.gateway.server_clock import QUARTER_S, RULES, ServerClock, detect_offset_s
from engine.gateway.symbols import masked
from engine.gateway.view import Reader, Unreadable

REAL = "MetaTrader5"
PROBE_S = 60.0  # the first start of Wine takes long
LEAST_PYTHON = (3, 9)  # of the worker
POLL_S, SAMPLES, MOST_SAMPLED = 0.1, 3, 8
KINDS = {0: "demo", 1: "contest", 2: "REAL MONEY"}
NEEDS = "needs the terminal"
CODE = """
import json, struct, sys
found = {'python': list(sys.version_info[:3]), 'bits': struct.calcsize('P') * 8, 'system': sys.platform}
try:
    import MetaTrader5
    found['module'] = str(getattr(MetaTrader5, '__version__', ''))
except Exception as error:
    found['why'] = type(error).__name__ + ': ' + str(error)
print(json.dumps(found))
"""
WINE = (
    "MetaTrader 5 runs on Windows. Run tapeguard there, or use Wine: install the terminal and a Windows Python in one "
    "Wine prefix, "
    'pip install MetaTrader5 in that Python, and give --worker-command "wine python.exe"'
)
# last_error after a failed initialize: how to mend it
MENDS = {
    -10003: "install your broker's MetaTrader 5 (64-bit) and start it once by hand; where it is in a place of its own, "
    "give --path with its terminal64.exe",
    -10005: "the terminal runs but is not logged in: choose File > Login to Trade Account, tick Save password, and "
    "wait until the lower right corner shows a connection",
    -6: "the broker refused the login: check number, password and server in File > Login to Trade Account",
    -7: "accounts with one-time passwords or certificates cannot be used from Python: ask the broker for one without",
    -8: "in the terminal open Tools > Options > Expert Advisors and untick "
    "'Disable automatic trading via external Python API'",
    -5: "terminal and package do not fit: update the terminal (Help > Check for Updates), "
    "and pip install -U MetaTrader5",
}
RESTART = "close and start the terminal, both it and this program as the same user, and run doctor again"


def probe(command: tuple[str, ...]) -> tuple[Finding, Finding | None]:
    """Run the worker's Python; return what it is, and a failure of the terminal where it has no module for it."""
    shown = " ".join(command)
    try:
        done = subprocess.run(
            [*command, "-c", CODE], capture_output=True, timeout=PROBE_S, stdin=subprocess.DEVNULL, check=False
        )
        found = json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1])
        python, bits, system = tuple(found["python"]), found["bits"], found["system"]
    except OSError as error:
        return Finding(
            "worker",
            FAIL,
            f"{shown} cannot be run: {error.strerror or error}",
            'give --worker-command the Python that has MetaTrader5, such as "wine python.exe"',
        ), None
    except subprocess.TimeoutExpired:
        return Finding(
            "worker",
            FAIL,
            f"{shown} did not come to an end within {PROBE_S:.0f} s",
            "run it by hand and see what it waits for; the first start of Wine may ask something",
        ), None
    except (ValueError, IndexError, KeyError, TypeError):
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Finding(
            "worker",
            FAIL,
            f"{shown} is no Python that runs (exit code {done.returncode}{': ' + told[-1] if told else ''})",
            "give --worker-command a Python that runs, with its whole path",
        ), None
    version = ".".join(map(str, python))
    if python < LEAST_PYTHON or bits != 64:
        return Finding(
            "worker",
            FAIL,
            f"{shown} is a {bits}-bit Python {version}; the worker needs 64 bits and 3.9 or later",
            "install a 64-bit Python, and MetaTrader5 in it",
        ), None
    worker = Finding(
        "worker", OK, f"Python {version}" + (f", MetaTrader5 {found['module']}" if found.get("module") else "")
    )
    if "module" in found:
        return worker, None
    why = (
        f"there is no MetaTrader5 module for {system}"
        if system != "win32"
        else f"MetaTrader5 cannot be loaded ({found['why']})"
    )
    return worker, Finding(
        "terminal",
        FAIL,
        why,
        WINE if system != "win32" else f"{shown} -m pip install MetaTrader5, and run doctor again",
    )


def connect(link: WorkerLink) -> Finding:
    """Start the worker and let it reach the terminal; return a failing worker or what there is of a terminal."""
    try:
        link.start()
    except LinkLost as error:
        mend = "let the firewall or security software allow this Python to talk to itself on 127.0.0.1; then run doctor again"
        return Finding("worker", FAIL, f"it started but does not talk on loopback: {error}", mend)
    except (SourceFailed, OSError, ValueError) as error:
        return Finding("worker", FAIL, str(error), "mend what it says, or see whether security software stops it")
    try:
        reply = link.ask({"call": "initialize", "kwargs": link.connect}, CONNECT_S if link.terminal == REAL else None)
    except LinkLost as error:
        return Finding("terminal", FAIL, str(error), "the terminal hangs: " + RESTART)
    if reply.get("result"):
        return Finding("terminal", OK, "answers")
    code, text = reply.get("error") or (0, reply.get("refused", "no reason given"))
    return Finding("terminal", FAIL, f"{text} ({code})", MENDS.get(code, RESTART))


class Terminal:
    """A terminal that answered once, and what was found at it."""

    def __init__(self, link: WorkerLink):
        self.link, self.reader = link, Reader(link, clock, frozenset())

    def ask(self, name: str, *args, **kwargs):
        """Return the result of a call; one that broke the link is asked again over the new one."""
        try:
            return self.reader.call(name, *args, **kwargs)
        except Unreadable:
            return self.reader.call(name, *args, **kwargs)

    def state(self, wanted: int | None) -> tuple[list[Finding], dict | None]:
        """Return the findings on terminal and account, and the account where it is the wanted one."""
        terminal, account = self.ask("terminal_info"), self.ask("account_info")
        found = [_terminal(terminal), *_permissions(terminal, account), _account(account, wanted), _kind(account)]
        if account["fifo_close"]:
            found.append(
                Finding(
                    "closing order",
                    WARN,
                    "the account closes the oldest position first (FIFO)",
                    "exits of a younger position of the same symbol are refused; hold one position a symbol",
                )
            )
        return found, account if wanted in (None, account["login"]) else None

    def broken(self) -> list[Finding]:
        """Return a warning where the link broke while it was used."""
        if not self.link.restarts:
            return []
        return [
            Finding(
                "terminal link",
                WARN,
                f"it broke {self.link.restarts} times during this check and was made again",
                RESTART,
            )
        ]

    def clock(self, symbols: list[str], wait_s: float) -> Finding:
        """Watch quotes and find how far the broker's clock is from UTC."""
        symbols = symbols[:MOST_SAMPLED]
        if not symbols:
            return Finding("broker clock", SKIPPED, "no symbol is in Market Watch", "show some symbols in Market Watch")
        first = {name: self.ask("symbol_info_tick", name)["time_msc"] for name in symbols}
        samples: list[tuple[int, int]] = []
        end_s = clock.monotonic_s() + wait_s
        while len(samples) < SAMPLES and clock.monotonic_s() < end_s:
            clock.sleep_s(POLL_S)
            for name in symbols:
                msc = self.ask("symbol_info_tick", name)["time_msc"]
                if msc != first[name]:
                    first[name] = msc
                    samples.append((msc, clock.now_ns()))
        if not samples:
            return Finding(
                "broker clock",
                WARN,
                f"no quote of {', '.join(symbols)} changed within {wait_s:g} s, so it is not known",
                "run doctor again while the market is open, or with a symbol that trades around the clock",
            )
        return _clock_found(samples)


def _clock_found(samples: list[tuple[int, int]]) -> Finding:
    offset_s = detect_offset_s(samples)
    if offset_s is None:
        away_s = samples[-1][0] / 1000 - samples[-1][1] / 1e9
        off_s = away_s - round(away_s / QUARTER_S) * QUARTER_S
        return Finding(
            "broker clock",
            FAIL,
            f"quotes are stamped {off_s:+.0f} s off any time zone, or not alike",
            "set this machine's clock first (see clock); if that one is right, ask the broker about its server time",
        )
    now_s = samples[-1][1] // 10**9
    rules = [name for name in RULES if ServerClock(name).offset_s(now_s) == offset_s]
    hours = f"UTC{offset_s / 3600:+g} h" if offset_s else "UTC"
    return Finding("broker clock", OK, f"{hours}, as of {' or '.join(rules) if rules else 'no rule known here'}")


def _is(name: str, good: bool, well: str, ill: str, mend: str) -> Finding:
    return Finding(name, OK, well) if good else Finding(name, FAIL, ill, mend)


def _terminal(terminal: dict) -> Finding:
    what = f"{terminal['name']} build {terminal['build']}"
    return _is(
        "terminal",
        terminal["connected"],
        what,
        f"{what} has no link to the broker",
        "look at the lower right corner of the terminal: log in, or choose another server there; check the network",
    )


def _permissions(terminal: dict, account: dict) -> list[Finding]:
    return [
        _is(
            "algo trading",
            terminal["trade_allowed"],
            "on",
            "off: every order would be refused (10027)",
            "press the Algo Trading button in the terminal's toolbar until it is green",
        ),
        _is(
            "python api",
            not terminal["tradeapi_disabled"],
            "allowed",
            "the terminal does not let Python trade",
            MENDS[-8],
        ),
        _is(
            "account trading",
            account["trade_allowed"],
            "allowed",
            "this account may not trade",
            "log in with the master password, not the investor password; if it is, ask the broker to open the account",
        ),
        _is(
            "account programs",
            account["trade_expert"],
            "allowed",
            "the broker does not let programs trade on this account",
            "ask the broker to allow Expert Advisors on it, or take another account",
        ),
    ]


def _account(account: dict, wanted: int | None) -> Finding:
    kind = KINDS.get(account["trade_mode"], "unknown kind")
    who = f"{masked(account['login'])} on {account['server']} ({kind}, {account['currency']})"
    return _is(
        "account",
        wanted in (None, account["login"]),
        who,
        f"{who} is logged in, not {masked(wanted or 0)}",
        "log in to the right account in the terminal; with several terminals give --path with the right terminal64.exe",
    )


def _kind(account: dict) -> Finding:
    if account["margin_mode"] == 2:
        return Finding("account type", OK, "hedging: every position is its own")
    return Finding(
        "account type",
        WARN,
        "netting: one position a symbol",
        "what you trade by hand in the same symbol merges into the managed position, and a close larger than it would "
        "open the other side; do not trade a managed symbol by hand, or use a hedging account",
    )


def worker_link(folder: Path, terminal: str, command: tuple[str, ...], path: str) -> WorkerLink:
    """Return a link of the doctor's own, that shares no file with one that trades."""
    return WorkerLink(
        folder / "sent.jsonl",
        terminal=terminal,
        command=command or (sys.executable,),
        connect={"path": path} if path else {},
    )
