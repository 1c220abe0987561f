"""The terminal a live run acts on: reached, its account held against what was typed, its symbols against what was confirmed."""

import contextlib
import hashlib
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import BadInput, SourceFailed
from engine.gateway.client import WorkerLink
from engine.gateway.symbols import (
    SymbolMap,
    check_map,
    decimal_of,
    instrument_of,
    judge,
    load_map,
    map_of,
    masked,
    split_pair,
    store_map,
)
from engine.gateway.view import Reader, Unreadable
from engine.instruments import Instrument
from engine.live.options import LiveOptions, Terminal

TRADE_MODES = {0: "demo", 1: "contest", 2: "real"}
HEDGING = 2
TRIES, TRY_S = 5, 1.0              # a terminal that starts or reconnects cannot be read for a moment


@dataclass
class Account:
    """The account of a live run and the symbols it manages there."""

    login: int
    shown: dict                        # what may be written down: masked login, server, kind, currency, contract sizes
    instruments: dict[str, Instrument]     # by broker symbol
    specs: dict[str, dict]
    confirmed: list[SymbolMap] = field(default_factory=list)       # by --map, not stored yet


def worker(terminal: Terminal, intents: Path) -> WorkerLink:
    """Return a link to a worker of its own for this terminal."""
    return WorkerLink(intents, terminal=terminal.name, command=terminal.command or (sys.executable,), connect=terminal.connect,
                      timeout_s=terminal.timeout_s)


def open_account(options: LiveOptions, link: WorkerLink, wall, data: Path) -> Account:
    """Connect and look: which account it is, and which of its symbols are led by the venue's; raise where anything is amiss."""
    if not link.restart():
        raise SourceFailed(f"the terminal {options.terminal.name} does not answer; tapeguard doctor finds out why")
    for left in reversed(range(TRIES)):
        try:
            return _account(options, Reader(link, wall, frozenset()), wall, data)
        except Unreadable as unreadable:
            if not left:
                raise SourceFailed(f"the terminal cannot be read: {unreadable}; tapeguard doctor finds out why") from None
        wall.sleep_s(TRY_S)
    raise AssertionError("the last try returns or raises")


def _account(options: LiveOptions, reader: Reader, wall, data: Path) -> Account:
    """Read the account and its symbols; raise Unreadable where that may pass."""
    account = reader.call("account_info")
    if options.account is not None and account["login"] != options.account:
        raise BadInput(f"account {masked(account['login'])} is logged in, not the {masked(options.account)} you typed; log in to "
                       "the right one in the terminal, or type the other number")
    stored = load_map(data, account["server"], account["login"])
    specs, instruments, confirmed = {}, {}, []
    for symbol in options.recording.symbols:
        known, name = stored.get(symbol), options.broker_symbols.get(symbol)
        if not name and known is None:
            raise BadInput(f"{symbol} leads no broker symbol yet; tapeguard doctor {symbol} proposes some, and --map {symbol}=NAME "
                           "confirms one")
        name = name or known.broker_symbol
        if name in options.recording.symbols:
            raise BadInput(f"the broker's {name} has the name of a symbol of the venue, which a recording cannot tell apart yet; "
                           "map another one")
        if name in instruments:
            raise BadInput(f"{instruments[name].pair} and {symbol} both lead {name}; map one of them to another symbol, or leave it out")
        spec = _spec(reader, name)
        _check(symbol, spec, known, symbol in options.broker_symbols)
        if known is None or known.broker_symbol != name:
            confirmed.append(map_of(spec, symbol, account["server"], account["login"], wall.now_ns()))
        specs[name], instruments[name] = spec, instrument_of(spec, symbol)
    shown = {"login": masked(account["login"]), "id": fingerprint(data, account["server"], account["login"]),
             "server": account["server"], "currency": account["currency"],
             "kind": TRADE_MODES.get(account["trade_mode"], "unknown"),
             "margin": "hedging" if account["margin_mode"] == HEDGING else "netting",
             "contracts": {name: decimal_of(spec["trade_contract_size"]) for name, spec in specs.items()}}
    return Account(account["login"], shown, instruments, specs, confirmed)


def keep_pairs(account: Account, data: Path) -> None:
    """Store the pairs that were confirmed, now that the venue knows their symbols."""
    for each in account.confirmed:
        store_map(data, each)


def _check(symbol: str, spec: dict, known: SymbolMap | None, told: bool) -> None:
    """Raise BadInput where a pair may not be: told now, it is judged as the doctor does; confirmed before, nothing may have changed."""
    if told and not (judged := judge(spec, *split_pair(symbol))).fit:
        raise BadInput(f"{spec['name']} cannot be led by {symbol}: {'; '.join(judged.reasons)}; "
                       f"tapeguard doctor {symbol} lists those that can")
    if known is not None and known.broker_symbol == spec["name"] and (changed := check_map(known, spec)):
        raise BadInput(f"{changed}; if that is right, confirm it anew: tapeguard doctor --map {symbol}={spec['name']}")


def fingerprint(data: Path, server: str, login: int) -> str:
    """Return what tells an account from any other under this data root, and tells nobody else its number."""
    path = data / "live" / "salt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="ascii", opener=_private) as file:
        file.write(secrets.token_hex(32))
    salt = path.read_text(encoding="ascii")
    return hashlib.sha256(f"{salt}|{server}|{login}".encode()).hexdigest()[:16]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _spec(reader: Reader, name: str) -> dict:
    if not reader.call("symbol_select", name, True):
        raise BadInput(f"the terminal has no symbol {name}; tapeguard doctor lists what it has")
    return reader.call("symbol_info", name)
