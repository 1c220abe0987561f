"""Input and output schemas of the tools: nothing unnamed goes in, every number that comes out has a place."""

from engine.analysis.enrichment import FIELDS
from engine.analysis.library import DEFAULT_ENTRIES
from engine.analysis.order_flow import WINDOWS
from engine.analysis.runs import ENDED_BY

_NUMBER, _TEXT, _WHOLE = {"type": ["number", "null"]}, {"type": "string"}, {"type": "integer"}
_MAYBE_TEXT = {"type": ["string", "null"]}
SIDE = {"enum": [-1, 0, 1, None]}
SIGNAL = {"enum": ["BULLISH", "BEARISH", "NEUTRAL", None]}
ACTIVITY = {"enum": ["ACCUMULATING", "DISTRIBUTING", "NEUTRAL", None]}
CALLED = {"enum": ["score", "probability"]}
TRENDS = [f"{way}_{side}" for way in ("INCREASINGLY", "STEADY", "WEAKENING") for side in ("BULLISH", "BEARISH")] + [
    "NEUTRAL",
    None,
]


def _object(required: dict, optional: dict | None = None, closed: bool = False) -> dict:
    made = {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}
    return {**made, "additionalProperties": False} if closed else made


def _answer(required: dict, optional: dict | None = None) -> dict:
    return {**_object(required, optional, closed=True), "$defs": DEFINITIONS}


def _inputs(required: dict, optional: dict) -> dict:
    return _object(required, optional, closed=True)


# a value, or null and the reason; each answer's schema defines it once
READING = {"$ref": "#/$defs/reading"}
DEFINITIONS = {
    "reading": {
        **_object(
            {"value": {}},
            {
                "unit": _TEXT,
                "reason": _TEXT,
                "window_s": {"type": "number"},
                "covered_s": {"type": "number"},
                "n": _WHOLE,
                "age_ms": {"type": "number"},
            },
        ),
        "if": {"properties": {"value": {"type": "null"}}},
        "then": {"required": ["reason"]},
    }
}
_STAMP = {
    "summary": _TEXT,
    "symbol": _TEXT,
    "record": _TEXT,
    "as_of": _TEXT,
    "as_of_ns": _WHOLE,
    "seq": _WHOLE,
    "code": _TEXT,
    "key": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    "detail": {"enum": ["brief", "full"]},
}
_FLOW = _object(
    {
        "window_s": _WHOLE,
        "side": SIDE,
        "signal": SIGNAL,
        "score": {"type": ["number", "null"], "minimum": -100, "maximum": 100},
        "called": CALLED,
        "parts": _object({"imbalance": READING, "whales": READING, "pressure": READING}),
        "v1": _object({"signal": SIGNAL, "score": {"enum": [0, 50, 55, 80, None]}}),
        "whale_activity": ACTIVITY,
    },
    {"called_reason": _TEXT, "probability": READING},
)
_TREND = _object(
    {
        "window_s": _WHOLE,
        "side": SIDE,
        "trend": {"enum": TRENDS},
        "whale_activity_trend": ACTIVITY,
        "imbalance_trend": {"type": ["array", "null"], "items": _NUMBER, "minItems": 4, "maxItems": 4},
        "pressure_trend": {"enum": ["STRENGTHENING", "STEADY", "WEAKENING", None]},
    },
    {"reason": _TEXT},
)
_WHALE = _object(
    {
        "id": _WHOLE,
        "side": {"enum": ["BUY", "SELL"]},
        "usd_value": _WHOLE,
        "price": {"type": "number"},
        "tier": {"enum": ["medium", "large", "whale"]},
        "prints": _WHOLE,
        "age_ms": {"type": "number"},
    },
    closed=True,
)
_VOIDS = _object({"bid": READING, "ask": READING}, closed=True)
_ADVICE = _object(
    {
        "direction": {"enum": ["BUY", "SELL", "HOLD"]},
        "given": {"type": "boolean"},
        "reason": {"type": "string", "minLength": 1},
        "order_flow_signal": SIGNAL,
        "order_flow_confidence": _NUMBER,
        "whale_positioning": ACTIVITY,
        "warnings": {"type": "array", "items": _TEXT},
        "contradiction": _object(
            {"present": {"type": "boolean"}, "order_flow": SIDE, "recommendation": SIDE}, closed=True
        ),
    },
    closed=True,
)
_PLAIN = [name for name in FIELDS if "." not in name]
_ENRICHMENT = _object(
    {
        **{name: READING for name in _PLAIN},
        "wicks": _object({"upper_wick_ratio": READING, "lower_wick_ratio": READING}, closed=True),
    },
    closed=True,
)
_WINDOW = _object({"window_s": _WHOLE, "side": SIDE, "score": _NUMBER})
_POSITION = _object(
    {
        "ticket": _WHOLE,
        "symbol": _TEXT,
        "side": {"enum": ["BUY", "SELL"]},
        "state": {"enum": ["closed", "open_at_end", "refused"]},
        "opened": _MAYBE_TEXT,
        "entry_price": _NUMBER,
        "stops_moved": _WHOLE,
        "partials": _WHOLE,
        "closed": _MAYBE_TEXT,
        "ended_by": {"enum": [*ENDED_BY, None]},
        "rule": _MAYBE_TEXT,
        "exit_price": _NUMBER,
        "gain_r": _NUMBER,
    },
    closed=True,
)
_DECISION = _object(
    {
        "seq": _WHOLE,
        "at": _TEXT,
        "at_ns": _WHOLE,
        "rule": _TEXT,
        "preset": _TEXT,
        "action": {"enum": ["HOLD", "ALERT", "TIGHTEN", "PARTIAL", "CLOSE"]},
        "result": _TEXT,
        "why_result": _TEXT,
        "votes": {"type": "array", "items": _TEXT},
        "evidence": {"type": "object"},
        "gain_r": _NUMBER,
        "bid": _NUMBER,
        "ask": _NUMBER,
    }
)
_CURSOR = {"type": ["integer", "null"], "description": "give this as cursor for the next page; null on the last"}

OUTPUTS = {
    "analyse_symbol": _answer(
        {
            **_STAMP,
            "feed": READING,
            "recommendation": _ADVICE,
            "order_flow": _FLOW,
            "order_flow_mtf": {"type": "object", "additionalProperties": _WINDOW},
            "order_flow_trend": _TREND,
            "whales": {"type": "array", "items": _WHALE},
            "voids": _VOIDS,
            "binance_enrichment": _ENRICHMENT,
        }
    ),
    "get_order_flow": _answer(
        {
            **_STAMP,
            "order_flow": _FLOW,
            "whales": {"type": "array", "items": _WHALE},
            "whales_total": {"type": ["integer", "null"]},
            "voids": _VOIDS,
        }
    ),
    "get_order_flow_trend": _answer({**_STAMP, "order_flow_trend": _TREND}),
    "list_sessions": _object(
        {
            "summary": _TEXT,
            "total": _WHOLE,
            "sessions": {
                "type": "array",
                "items": _object(
                    {
                        "session": _TEXT,
                        "venue": _MAYBE_TEXT,
                        "symbols": {"type": "array", "items": _TEXT},
                        "state": _TEXT,
                        "from": _MAYBE_TEXT,
                        "to": _MAYBE_TEXT,
                        "rows": {"type": ["integer", "null"]},
                        "problem": _MAYBE_TEXT,
                    },
                    closed=True,
                ),
            },
            "runs": {"type": "array", "items": _TEXT},
            "runs_total": _WHOLE,
            "next_cursor": _CURSOR,
        },
        closed=True,
    ),
    "list_positions": _object(
        {
            "summary": _TEXT,
            "run": _TEXT,
            "session": _TEXT,
            "digest": _TEXT,
            "total": _WHOLE,
            "positions": {"type": "array", "items": _POSITION},
            "next_cursor": _CURSOR,
        },
        closed=True,
    ),
    "explain_exit": _object(
        {
            "summary": _TEXT,
            "run": _TEXT,
            "session": _TEXT,
            "digest": _TEXT,
            "position": _POSITION,
            "decided_by": {"anyOf": [_DECISION, {"type": "null"}]},
            "decisions_total": _WHOLE,
            "decisions": {"type": "array", "items": _DECISION},
        },
        {"reason": _TEXT, "decision_to_fill_ms": {"type": "number"}},
        closed=True,
    ),
    "measure_rules": _object(
        {
            "summary": _TEXT,
            "session": _TEXT,
            "entries": _TEXT,
            "draws": _WHOLE,
            "seed": _WHOLE,
            "trades": _WHOLE,
            "quotes": {"enum": ["recorded", "modelled"]},
            "baseline_r": _NUMBER,
            "configurations_tried": _WHOLE,
            "calibration": _object(
                {
                    "symbol": _TEXT,
                    "window_s": _WHOLE,
                    "horizon_s": _WHOLE,
                    "called": CALLED,
                    "reason": _MAYBE_TEXT,
                    "judged_n": _WHOLE,
                    "brier": _NUMBER,
                    "brier_of_a_coin": _NUMBER,
                },
                closed=True,
            ),
            "units": _TEXT,
            "rules": {
                "type": "object",
                "additionalProperties": _object(
                    {
                        "preset": _TEXT,
                        "fired": _WHOLE,
                        "saved": _WHOLE,
                        "improved": _WHOLE,
                        "neutral": _WHOLE,
                        "harmed": _WHOLE,
                        "too_late": _WHOLE,
                        "verdict": _TEXT,
                        "change_r": _NUMBER,
                        "excess_r": _NUMBER,
                        "p_holm": _NUMBER,
                    },
                    closed=True,
                ),
            },
        },
        closed=True,
    ),
}

_SYMBOL = {
    "type": "string",
    "minLength": 1,
    "maxLength": 40,
    "description": "such as BTCUSDT; lower case and broker suffixes are understood",
}
_SESSION = {
    "type": "string",
    "minLength": 1,
    "maxLength": 120,
    "description": "session name from list_sessions; default: the newest with the symbol",
}
_AT = {
    "type": "string",
    "maxLength": 40,
    "description": "moment: +120s from the session's start, or ISO time in UTC; default: its end",
}
_DETAIL = {
    "enum": ["brief", "full"],
    "default": "brief",
    "description": "full adds unit, window, cover, count and age of every number",
}


def _windows(default: int) -> dict:
    return {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 3600}, {"enum": list(WINDOWS)}],
        "default": default,
        "description": "seconds, or an alias: " + ", ".join(f"{name} {seconds} s" for name, seconds in WINDOWS.items()),
    }


_PLACE = {"session": _SESSION, "at": _AT}
_PAGE = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 8},
    "cursor": {"type": "integer", "minimum": 0, "default": 0},
}
_RUN = {"type": "string", "minLength": 1, "maxLength": 120, "description": "run name; list_sessions names the runs"}

INPUTS = {
    "analyse_symbol": _inputs(
        {"symbol": _SYMBOL},
        {
            **_PLACE,
            "direction": {
                "enum": ["BUY", "SELL", "HOLD"],
                "description": (
                    "what you mean to do, to be held against order flow; default: what order flow speaks for"
                ),
            },
            "detail": _DETAIL,
        },
    ),
    "get_order_flow": _inputs({"symbol": _SYMBOL}, {**_PLACE, "window": _windows(30), "detail": _DETAIL}),
    "get_order_flow_trend": _inputs({"symbol": _SYMBOL}, {**_PLACE, "window": _windows(300), "detail": _DETAIL}),
    "list_sessions": _inputs({}, _PAGE),
    "list_positions": _inputs(
        {"run": _RUN}, {**_PAGE, "ended_by": {"enum": list(ENDED_BY)}, "rule": {"type": "string", "maxLength": 80}}
    ),
    "explain_exit": _inputs(
        {"run": _RUN, "ticket": {"type": "integer", "minimum": 0, "maximum": 2**62}}, {"detail": _DETAIL}
    ),
    "measure_rules": _inputs(
        {"session": _SESSION},
        {
            "rules": {
                "type": "string",
                "maxLength": 200,
                "default": "all",
                "description": "rule[:preset], comma separated; all",
            },
            "entries": {
                "type": "string",
                "maxLength": 200,
                "default": DEFAULT_ENTRIES,
                "description": "systematic entries the rules are tried on",
            },
            "draws": {
                "type": "integer",
                "minimum": 99,
                "maximum": 499,
                "default": 199,
                "description": "random exits a p-value is drawn from",
            },
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 1},
        },
    ),
}
