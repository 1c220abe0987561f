"""The doctor: checks what a user can get wrong here, at the venue and at the broker, and says how to mend it."""

import asyncio
import importlib.metadata
import os
import re
import shutil
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from engine.arguments import MAP, pairs
from engine.errors import SourceFailed, TapeguardError
from engine.finding import FAIL, OK, SKIPPED, WARN, Finding
from engine.gateway import checkup
from engine.gateway.pairing import Listed, Pairing
from engine.gateway.symbols import masked
from engine.gateway.view import Unreadable
from engine.live.guard import NEAR_MS
from engine.sources.binance import LIVE, REFUSALS, Endpoint, Rest, group_url, refusal, stream_groups

PACKAGE = "tapeguard"
ROUTE_S = 10.0
CLOCK_FAIL_MS, CLOCK_WARN_MS, CLOCK_ERROR_MS = 1000.0, 100.0, 500.0
NO_NAME = "the name cannot be resolved: check the network and its name server (DNS), or try another name server"
OTHER_ADDRESS = "give the right --venue, --rest and --ws, or leave them out"
ELSEWHERE = "Binance does not serve this place: run tapeguard on a machine where it does"
SET_CLOCK = {"win32": "w32tm /resync", "darwin": "sudo sntp -sS time.apple.com"}.get(
    sys.platform, "sudo timedatectl set-ntp true"
)


@dataclass
class Options:
    """What is checked, and against what."""

    data: Path
    endpoint: Endpoint
    symbols: list[str] = field(default_factory=list)
    terminal: str = checkup.REAL
    command: tuple[str, ...] = (sys.executable,)  # runs the worker
    path: str = ""  # of terminal64.exe
    account: int | None = None
    confirm: dict[str, str] = field(default_factory=dict)
    reserve_bytes: int = 2 * 10**9
    wait_s: float = 5.0


def options_of(args: Namespace) -> Options:
    """Return the options a command line asks for."""
    base = LIVE[args.venue]
    return Options(
        args.data,
        Endpoint(args.venue, args.ws or base.ws, args.rest or base.rest),
        [each.upper() for each in args.symbols],
        args.terminal,
        args.worker_command or (sys.executable,),
        args.path or "",
        args.account,
        pairs(args.map, "--map", MAP),
        int(args.reserve_gb * 1e9),
        args.wait,
    )


def doctor(options: Options, say: Callable[[str], None] = lambda text: None) -> dict:
    """Check everything; `ok` is True when nothing failed."""
    findings = [python(), packages(), data_root(options.data), disk(options.data, options.reserve_bytes)]
    say(f"asking {options.endpoint.rest}")
    at_venue, listed = asyncio.run(venue(options.endpoint))
    say("asking the terminal")
    pairing = Pairing(listed, options.confirm, options.data)
    at_broker, account = broker(options, pairing)
    findings += [*at_venue, *at_broker]
    return {
        "ok": all(each.state != FAIL for each in findings),
        "findings": [asdict(each) for each in findings],
        "account": None if account is None else {"login": masked(account["login"]), "server": account["server"]},
        "maps": {name: asdict(each) for name, each in pairing.maps.items()},
        "candidates": {name: [asdict(each) for each in found] for name, found in pairing.candidates.items()},
    }


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", text)[0]))


def _within(version: str, bounds: str) -> bool:
    """Tell whether a version lies within bounds such as ">=3.11,<3.14"."""
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", bounds):
        if (_numbers(version) >= _numbers(bound)) != (sign == ">="):
            return False
    return True


def python() -> Finding:
    """Tell whether this Python is one the program is made for."""
    version, where = ".".join(map(str, sys.version_info[:3])), f"{sys.implementation.name} on {sys.platform}"
    try:
        bounds = importlib.metadata.metadata(PACKAGE)["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "python",
            WARN,
            f"{version}, {where}; {PACKAGE} is not installed, so what it needs is not known",
            "install it: pip install . in its folder, or start it with uv run",
        )
    if _within(version, bounds):
        return Finding("python", OK, f"{version}, {where}")
    return Finding(
        "python", FAIL, f"{version}; {bounds} is needed", f"install a Python of {bounds} and {PACKAGE} in it"
    )


def packages() -> Finding:
    """Tell whether every package is there in a version that is known to do."""
    try:
        needed = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("packages", SKIPPED, f"{PACKAGE} is not installed")
    wrong, count = [], 0
    for line in needed:
        need, _, marker = (part.strip() for part in line.partition(";"))
        if "extra" in marker or "sys_platform" in marker and sys.platform not in marker:
            continue
        name, count = re.match(r"[\w.-]+", need)[0], count + 1
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need} is missing")
            continue
        if not _within(version, need):
            wrong.append(f"{name} is {version}, {need} is needed")
    if wrong:
        return Finding("packages", FAIL, "; ".join(wrong), f"pip install --upgrade {PACKAGE}, or uv sync in its folder")
    return Finding("packages", OK, f"{count} in versions that will do")


def _nearest_folder(data: Path) -> Path:
    """Return the data root, or the folder above it that is there."""
    place = data.absolute()
    while not place.exists():
        place = place.parent
    return place


def data_root(data: Path) -> Finding:
    """Tell whether the data root can be written, by writing there."""
    place = _nearest_folder(data)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"tapeguard")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            "data folder",
            FAIL,
            f"{place} cannot be written: {error.strerror or error}",
            "give another folder with --data or TAPEGUARD_DATA, or change who may write there",
        )
    return Finding("data folder", OK, f"{data.absolute()}{'' if place == data.absolute() else ' (not made yet)'}")


def disk(data: Path, reserve_bytes: int) -> Finding:
    """Tell whether the disk has more free than a recording leaves alone."""
    free = shutil.disk_usage(_nearest_folder(data)).free
    told = f"{free / 1e9:,.1f} GB free"
    if free < reserve_bytes:
        return Finding(
            "disk",
            FAIL,
            f"{told}, {reserve_bytes / 1e9:,.1f} GB are kept in reserve: nothing would be recorded",
            "free some space, or give a folder on another disk with --data; --reserve-gb changes the reserve",
        )
    return Finding("disk", OK, told)


async def venue(endpoint: Endpoint) -> tuple[list[Finding], Listed | None]:
    """Ask the venue over REST and sockets; return the findings and the symbols it lists."""
    rest = Rest(endpoint, httpx.AsyncClient(timeout=ROUTE_S))
    try:
        route = await _route(rest)
        if route.state == FAIL:
            return [route, await _sockets(endpoint), Finding("clock", SKIPPED, "needs Binance's time")], None
        offset_ns, error_ns = await rest.clock_offset_ns()
        body = msgspec.json.decode((await rest.get("exchangeInfo"))[0])
        listed = {row["symbol"]: (row["baseAsset"], row["quoteAsset"]) for row in body["symbols"]}
        return [route, await _sockets(endpoint), _clock(offset_ns / 1e6, error_ns / 2e6, endpoint.near)], listed
    except (SourceFailed, msgspec.DecodeError, KeyError, TypeError) as error:
        seen = (
            str(error)
            if isinstance(error, SourceFailed)
            else f"{endpoint.rest} answers, but not as {endpoint.venue} does"
        )
        return [Finding("binance", FAIL, seen, OTHER_ADDRESS)], None
    finally:
        await rest.close()


async def _route(rest: Rest) -> Finding:
    """Tell whether the venue can be reached over REST, and where the way ends if not."""
    endpoint = rest.endpoint
    try:
        await rest.get("ping")
    except SourceFailed as error:
        return Finding("binance", FAIL, str(error), await _way(str(error), urlsplit(endpoint.rest).hostname or ""))
    return Finding("binance", OK, f"{endpoint.venue} answers at {endpoint.rest}")


async def _way(told: str, host: str) -> str:
    """Return how to mend a way that ends so."""
    if any(f"({status})" in told for status in REFUSALS):
        return ELSEWHERE
    if not await _resolves(host):
        return NO_NAME
    if " answered 4" in told:
        return OTHER_ADDRESS
    if "banned" in told or "429" in told:
        return "other programs on this address ask too much: stop them, and wait until the ban is over"
    if "Timeout" in told:
        return f"packets to {host} are lost: a firewall or proxy holds them back; allow outgoing TCP 443"
    return f"allow outgoing connections to {host} on port 443 in firewall and proxy, and see whether Binance is down"


async def _resolves(host: str) -> bool:
    try:
        return bool(await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return False


async def _sockets(endpoint: Endpoint) -> Finding:
    """Tell whether a socket of each path can be opened."""
    host = urlsplit(endpoint.ws).hostname or ""
    try:
        for group, streams in stream_groups(endpoint.venue, ["BTCUSDT"]).items():
            async with connect(
                group_url(endpoint, group, streams),
                open_timeout=ROUTE_S,
                close_timeout=1,
                compression=None,
                max_size=None,
            ):
                pass
    except InvalidStatus as error:
        status = error.response.status_code
        return Finding(
            "binance sockets",
            FAIL,
            refusal(endpoint, status) if status in REFUSALS else f"{endpoint.ws} answered {status}",
            ELSEWHERE if status in REFUSALS else OTHER_ADDRESS,
        )
    except (OSError, EOFError, WebSocketException, ValueError) as error:
        return Finding(
            "binance sockets",
            FAIL,
            f"{endpoint.ws} cannot be opened ({type(error).__name__}: {error})",
            f"allow outgoing WebSocket connections to {host} in firewall and proxy"
            if await _resolves(host)
            else NO_NAME,
        )
    return Finding("binance sockets", OK, f"opened at {endpoint.ws}")


def _clock(offset_ms: float, error_ms: float, near: bool) -> Finding:
    """Judge this machine's clock by the venue's, unless that is on this machine too and plays a tape."""
    if near and abs(offset_ms) >= NEAR_MS:
        return Finding("clock", SKIPPED, "the venue is on this machine and plays a tape of the past, which tells nothing of the clock")
    way = "behind" if offset_ms > 0 else "ahead of"
    told = f"this machine is {abs(offset_ms):,.0f} ms {way} Binance, known to {error_ms:,.0f} ms"
    sure_ms = abs(offset_ms) - error_ms
    if sure_ms > CLOCK_WARN_MS:
        return Finding(
            "clock", FAIL if sure_ms > CLOCK_FAIL_MS else WARN, told, f"set the clock by a time server: {SET_CLOCK}"
        )
    if error_ms > CLOCK_ERROR_MS:
        return Finding(
            "clock",
            WARN,
            told,
            "the way to Binance is slow; run doctor again, from a machine nearer to it if it stays so",
        )
    return Finding("clock", OK, told)


def broker(options: Options, pairing: Pairing) -> tuple[list[Finding], dict | None]:
    """Ask the terminal through a worker of the doctor's own; return the findings, and the account if it is right."""
    found = [Finding("worker", OK, "starts and talks on loopback")]
    if options.terminal == checkup.REAL:
        worker, absent = checkup.probe(options.command)
        found = [worker, *([absent] if absent else [])]
        if any(each.state == FAIL for each in found):
            return [*found, *_without(pairing, options, absent is None)], None
    with tempfile.TemporaryDirectory(prefix="tapeguard-doctor-", ignore_cleanup_errors=True) as folder:
        link = checkup.worker_link(Path(folder), options.terminal, options.command, options.path)
        try:
            first = checkup.connect(link)
            if first.state == FAIL:
                kept = [each for each in found if each.name != first.name]
                return [*kept, first, *_without(pairing, options, first.name == "worker")], None
            terminal = checkup.Terminal(link)
            state, account = terminal.state(options.account)
            found += state
            found += pairing.findings(options.symbols, terminal, account)
            shown = [each["name"] for each in terminal.ask("symbols_get", group="*USD*") if each["visible"]]
            found.append(terminal.clock(list(dict.fromkeys([*pairing.quoted, *shown])), options.wait_s))
            return found + terminal.broken(), account
        except (Unreadable, TapeguardError) as error:
            return [*found, Finding("terminal", FAIL, f"it stopped answering: {error}", checkup.RESTART)], None
        finally:
            link.stop()


def _without(pairing: Pairing, options: Options, terminal_too: bool) -> list[Finding]:
    """Return what is left to say where no terminal answers."""
    names = [*(["terminal"] if terminal_too else []), "account", "algo trading", "broker clock"]
    return [*(Finding(name, SKIPPED, checkup.NEEDS) for name in names), *pairing.findings(options.symbols, None, None)]
