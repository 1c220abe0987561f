"""The configuration of a simulated terminal: what may stand in it, and what is said of one that is wrong."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from engine.errors import BadInput, nearest
from engine.gateway.server_clock import RULES
from engine.gateway.terminal_books import Spec
from engine.gateway.terminal_faults import Faults

_Symbol = msgspec.defstruct("_Symbol", [(each.name, each.type, msgspec.NODEFAULT if each.default is dataclasses.MISSING else each.default)
                                        for each in dataclasses.fields(Spec)], forbid_unknown_fields=True)


class _Position(msgspec.Struct, forbid_unknown_fields=True):
    symbol: str
    side: Literal[0, 1]
    lots: float
    position_id: int = 0
    sl: float = 0.0
    tp: float = 0.0
    sl_bps: float = 0.0
    tp_bps: float = 0.0
    magic: int = 0
    comment: str = ""


class _Account(msgspec.Struct, forbid_unknown_fields=True):
    login: int = 5001
    mode: Literal["hedging", "netting"] = "hedging"
    balance: float = 100_000.0
    leverage: int = 100
    netting_reverses: bool = True


class _Walk(msgspec.Struct, forbid_unknown_fields=True):
    seed: int
    symbol: str
    bid: int
    spread: int
    every_ms: int
    step: int


class Follow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One symbol of the broker and the venue's stream it follows."""

    symbol: str
    stream: str
    ws: str
    path: str = ""                 # "/public" for USD-M, nothing for spot
    spread_bps: float = 2.0
    lag_ms: float = 100.0
    basis_bps: float = 0.0         # how far the broker's middle is above the venue's


class _Settings(msgspec.Struct, forbid_unknown_fields=True):
    symbols: list[_Symbol]
    quotes: list[tuple[str, int, int]] = []
    positions: list[_Position] = []
    accounts: list[_Account] = msgspec.field(default_factory=lambda: [_Account()])
    faults: list[dict] = []
    rates: dict[str, float] = {}
    seed: int = 0
    late_ms: int = 2000
    walk: _Walk | None = None
    state: str = ""
    clock_rule: str = "new_york+7"
    password: str = ""
    follow: list[Follow] = []


_PARTS = {"symbols": _Symbol, "positions": _Position, "accounts": _Account, "walk": _Walk, "follow": Follow}


def read_settings(config: Path | dict) -> tuple[dict, list[Follow]]:
    """Return a configuration from a file or as it is, and what follows a venue; raise BadInput for what will not do."""
    name = "the configuration" if isinstance(config, dict) else str(config)
    try:
        given = config if isinstance(config, dict) else json.loads(config.read_text(encoding="utf-8"))
        settings = msgspec.convert(given, _Settings)
        Faults(list(settings.faults), settings.rates)
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error.strerror}); it is the JSON file that describes the simulated terminal") from None
    except msgspec.ValidationError as error:
        unknown = re.search(r"unknown field `(.*?)`(?: - at `\$\.(\w+))?", str(error))
        hint = f"; {nearest(unknown[1], _PARTS.get(unknown[2], _Settings).__struct_fields__)}" if unknown else ""
        raise BadInput(f"{name}: {error}{hint}") from None
    except ValueError as error:
        raise BadInput(f"{name}: not JSON ({error})") from None
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    wrong = _fault(settings)
    if wrong:
        raise BadInput(f"{name}: {wrong}")
    return given, settings.follow


def _fault(settings: _Settings) -> str:
    """Return what is wrong between the parts, "" for nothing."""
    symbols = [symbol.name for symbol in settings.symbols]
    used = [("quotes", row[0]) for row in settings.quotes] + [("positions", row.symbol) for row in settings.positions] + \
        [("follow", row.symbol) for row in settings.follow] + ([("walk", settings.walk.symbol)] if settings.walk else [])
    for place, symbol in used:
        if symbol not in symbols:
            return f"{place} names the symbol {symbol!r}, which is not among symbols; {nearest(symbol, symbols)}"
    if settings.clock_rule not in RULES:
        return f"clock_rule {settings.clock_rule!r} is not known; {nearest(settings.clock_rule, RULES)}"
    if settings.state and not Path(settings.state).absolute().parent.is_dir():
        return f"the folder of the state file {settings.state} does not exist; make it first"
    for row in settings.follow:
        address = urlsplit(row.ws)
        if address.scheme not in ("ws", "wss") or not address.hostname or address.path.strip("/"):
            return f"ws {row.ws!r} is no address such as ws://127.0.0.1:9000; a path stands in \"path\""
        if not row.stream.endswith("@bookTicker"):
            return f"stream {row.stream!r} has no best quotes; name one such as btcusdt@bookTicker"
        if row.spread_bps < 0 or row.lag_ms < 0:
            return f"spread_bps and lag_ms of {row.symbol} are 0 or more"
    return ""


def following(ws: str) -> dict:
    """Return the configuration of a demo account whose BTCUSD follows BTCUSDT at a socket address, path included."""
    address = urlsplit(ws)
    position = {"symbol": "BTCUSD", "lots": 1.0, "sl_bps": 50.0, "tp_bps": 100.0}
    return {"symbols": [{"name": "BTCUSD"}], "accounts": [{"login": 5001, "mode": "hedging"}],
            "positions": [position | {"side": 0}, position | {"side": 1}],
            "follow": [{"symbol": "BTCUSD", "stream": "btcusdt@bookTicker", "ws": f"{address.scheme}://{address.netloc}",
                        "path": address.path}]}
