"""The REST side of the exchange: weights, refusals, and the market data requests."""

import json
import math
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

from engine import clock
from engine.record.decode import SPOT, USDM
from engine.sim.limits import DEPTH_SIZES, PREFIX, WEIGHTS, Budget, Limits, depth_weight
from engine.sim.market import Market, split_symbol

HOUR_MS = 3_600_000
KNOWN_MS = 1 << 53
TEXTS = {403: "Forbidden", 451: "Service unavailable from a restricted location", 503: "Service Unavailable"}
Answer = tuple[int, dict[str, str], bytes]


class Refused(Exception):
    """A request the venue answers with an error code."""

    def __init__(self, code: int, text: str, status: int = 400):
        super().__init__(text)
        self.code, self.text, self.status = code, text, status


class Rest:
    """Answers requests from the market as far as it has been played; `now_ms` is the venue's clock."""

    def __init__(
        self, market: Market, limits: Limits, now_ms: Callable[[], int], weights: Mapping[str, int] | None = None
    ):
        self.market, self.limits, self.now_ms = market, limits, now_ms
        self.venue = market.tape.venue
        self.weights = {**WEIGHTS[self.venue], **(weights or {})}
        self.shift = lambda: 0  # diffs by which the next depth body is off
        self.shift_ms = lambda: 0  # what is added to venue times of trades and bodies
        self.served: dict[str, int] = {}
        self._budgets: dict[str, Budget] = {}

    def known(self, symbol: str) -> bool:
        """Return whether the book of a symbol can be told, or is of no symbol here at all."""
        return symbol not in self.market.tape.symbols or self.market.book(symbol) is not None

    def asked(self, path: str) -> tuple[str, dict[str, str]]:
        """Return the name of a request and its parameters; the name is empty for a path that is not served."""
        parts = urlsplit(path)
        prefix = PREFIX[self.venue]
        name = parts.path.removeprefix(prefix) if parts.path.startswith(prefix) else ""
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return (name if name in self.weights or name == "depth" else ""), query

    def answer(self, path: str, headers: Mapping[str, str], address: str) -> Answer:
        """Return status, headers and body of one request."""
        name, query = self.asked(path)
        if not name:
            return self._error(404, -1, f"no such path {urlsplit(path).path}")
        budget = self._budgets.setdefault(address, Budget(self.limits))
        now_s = clock.monotonic_s()
        status, wait_s = budget.charge(self._weight(name, query), now_s)
        more = {"X-MBX-USED-WEIGHT-1M": str(budget.used), "X-MBX-USED-WEIGHT": str(budget.used)}
        if status != 200:
            more["Retry-After"] = str(max(1, math.ceil(wait_s)))
            text = (
                f"Way too much request weight used; IP banned until {self.now_ms() + round(wait_s * 1000)}."
                if status == 418
                else f"Too much request weight used; current limit is {self.limits.weight_per_window} a minute."
            )
            return self._error(status, -1003, text + " Use the websocket for live updates.", more)
        self.served[name] = self.served.get(name, 0) + 1
        try:
            micro = self.venue == SPOT and headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND"
            result = self._result(name, query, headers, 1000 if micro else 1)
        except Refused as refused:
            return self._error(refused.status, refused.code, refused.text, more)
        return 200, more, json.dumps(result, separators=(",", ":"), ensure_ascii=False).encode()

    def refuse(self, status: int) -> Answer:
        """Return the answer of a switched-off exchange, or of an overload."""
        text, stay_away = TEXTS.get(status, "refused by the simulator"), status in (418, 429)
        wait = {"Retry-After": f"{self.limits.window_s / 60:g}"} if stay_away else {}
        return self._error(status, -1003 if stay_away else 0, text, wait)

    @staticmethod
    def _error(status: int, code: int, text: str, headers: dict[str, str] | None = None) -> Answer:
        return status, headers or {}, json.dumps({"code": code, "msg": text}, separators=(",", ":")).encode()

    def _weight(self, name: str, query: dict[str, str]) -> int:
        if name != "depth" or "depth" in self.weights:
            return self.weights[name]
        text = query.get("limit", "")
        return depth_weight(self.venue, int(text) if text.isdigit() else self._usual_depth)

    @property
    def _usual_depth(self) -> int:
        return 100 if self.venue == SPOT else 500

    def _result(self, name: str, query: dict[str, str], headers: Mapping[str, str], unit: int) -> object:
        if name == "ping":
            return {}
        if name == "time":
            return {"serverTime": self.now_ms() * unit}
        if name == "exchangeInfo":
            return self._exchange_info(query, unit)
        if name == "ticker/bookTicker" and "symbol" not in query:
            return [best for symbol in self.market.tape.symbols if (best := self._best(symbol))]
        symbol = self._symbol(query)
        if name == "ticker/bookTicker":
            return self._best(symbol)
        if name == "depth":
            return self._depth(symbol, query)
        if name == "historicalTrades" and self.venue == USDM and not headers.get("X-MBX-APIKEY"):
            raise Refused(-2014, "API-key format invalid.", 401)
        limit = min(self._whole(query, "limit", 500), 1000)
        if name == "aggTrades":
            rows = self._aggregates(symbol, limit, query)
        else:
            from_id = self._whole(query, "fromId") if name == "historicalTrades" else None
            rows = self.market.trades(symbol, limit, from_id)
        clock_name = "T" if name == "aggTrades" else "time"
        return [{**row, clock_name: (row[clock_name] + self.shift_ms()) * unit} for row in rows]

    def _symbol(self, query: dict[str, str]) -> str:
        symbol = query.get("symbol", "")
        if not symbol:
            raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if symbol not in self.market.tape.symbols:
            raise Refused(-1121, "Invalid symbol.")
        return symbol

    @staticmethod
    def _whole(query: dict[str, str], name: str, otherwise: int | None = None) -> int | None:
        if name not in query:
            return otherwise
        if not query[name].isdigit() or int(query[name]) > KNOWN_MS:
            raise Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
        return int(query[name])

    def _depth(self, symbol: str, query: dict[str, str]) -> dict:
        limit = self._whole(query, "limit", self._usual_depth)
        if self.venue == USDM and limit not in DEPTH_SIZES:
            raise Refused(-4021, f"{limit} is not valid depth limit")
        found = self.market.book(symbol, self.shift())
        if found is None:
            raise Refused(-1001, "The recording does not say what the book is here; ask again.", 503)
        book, last_id = found
        bids, asks = book.levels(min(limit, 5000))
        if self.venue == SPOT:
            return {"lastUpdateId": last_id, "bids": bids, "asks": asks}
        return {
            "lastUpdateId": last_id,
            "E": self.now_ms(),
            "T": (book.time_ms or self.now_ms()) + self.shift_ms(),
            "bids": bids,
            "asks": asks,
        }

    def _aggregates(self, symbol: str, limit: int, query: dict[str, str]) -> list[dict]:
        from_id, start_ms, end_ms = (self._whole(query, name) for name in ("fromId", "startTime", "endTime"))
        if from_id is not None and self.venue == USDM and (start_ms is not None or end_ms is not None):
            raise Refused(-1128, "Combination of optional parameters invalid.")
        if start_ms is not None and end_ms is not None and (end_ms < start_ms or end_ms - start_ms > HOUR_MS):
            raise Refused(-1127, "More than 1 hours between startTime and endTime.")
        back = self.shift_ms()
        return self.market.aggregates(
            symbol, limit, from_id, *(None if at is None else at - back for at in (start_ms, end_ms))
        )

    def _best(self, symbol: str) -> dict | None:
        row = self.market.best(symbol)
        if row is None:
            return None
        best = {"symbol": symbol, "bidPrice": row["b"], "bidQty": row["B"], "askPrice": row["a"], "askQty": row["A"]}
        return best if self.venue == SPOT else {**best, "time": row["T"] + self.shift_ms(), "lastUpdateId": row["u"]}

    def _exchange_info(self, query: dict[str, str], unit: int) -> dict:
        symbols = [self._symbol(query)] if "symbol" in query else self.market.tape.symbols
        limit = {
            "rateLimitType": "REQUEST_WEIGHT",
            "interval": "MINUTE",
            "intervalNum": 1,
            "limit": self.limits.weight_per_window,
        }
        return {
            "timezone": "UTC",
            "serverTime": self.now_ms() * unit,
            "rateLimits": [limit],
            "exchangeFilters": [],
            "symbols": [self._symbol_info(symbol) for symbol in symbols],
        }

    def _symbol_info(self, symbol: str) -> dict:
        steps = self.market.steps(symbol)
        base, quote = split_symbol(symbol)
        filters = [
            {"filterType": "PRICE_FILTER", "minPrice": steps.tick, "maxPrice": "100000000", "tickSize": steps.tick},
            {"filterType": "LOT_SIZE", "minQty": steps.lot, "maxQty": "100000000", "stepSize": steps.lot},
        ]
        if self.venue == SPOT:
            return {
                "symbol": symbol,
                "status": "TRADING",
                "baseAsset": base,
                "baseAssetPrecision": 8,
                "quoteAsset": quote,
                "quotePrecision": 8,
                "quoteAssetPrecision": 8,
                "orderTypes": ["LIMIT", "MARKET"],
                "isSpotTradingAllowed": True,
                "filters": filters,
                "permissions": [],
                "permissionSets": [["SPOT"]],
            }
        return {
            "symbol": symbol,
            "pair": symbol.partition("_")[0],
            "contractType": "PERPETUAL",
            "status": "TRADING",
            "baseAsset": base,
            "quoteAsset": quote,
            "marginAsset": quote,
            "pricePrecision": steps.price_decimals,
            "quantityPrecision": steps.qty_decimals,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "orderTypes": ["LIMIT", "MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
            "filters": filters,
        }
