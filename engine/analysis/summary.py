"""The whole analysis of one symbol at one moment, as one answer."""

from engine.analysis.decision import recommend, signed
from engine.analysis.enrichment import enrich
from engine.analysis.moment import Moment, View, code_version, parse_at, utc_text
from engine.analysis.order_flow import order_flow_signal, recent_whales, several, voids
from engine.analysis.trend import order_flow_trend
from engine.errors import BadInput
from engine.record.recording import Recording
from engine.record.store import Session

DETAILS = ("brief", "full")
WHALES_BRIEF, WHALES_FULL = 3, 20


def analyse(
    session: Session | Recording,
    symbol: str,
    at: str | int | None = None,
    direction: str | None = None,
    detail: str = "full",
    calibrations: dict[str, dict] | None = None,
) -> dict:
    """Return the analysis of a symbol at a moment of a session, its end when none is given."""
    moment = Moment.of_session(session, parse_at(at, session))
    moment.calibrations = calibrations or {}
    return analyse_moment(moment, symbol, direction, detail)


def analyse_moment(moment: Moment, symbol: str, direction: str | None = None, detail: str = "full") -> dict:
    """Return the analysis where a stream stands: live and recorded give the same bytes."""
    if detail not in DETAILS:
        raise BadInput(f"detail {str(detail)[:40]!r} is not known; known: {', '.join(DETAILS)}")
    signed(direction)
    view = moment.view(symbol)
    enrichment = enrich(view)
    windows = several(view)
    trend = order_flow_trend(view)
    holes = voids(view)
    made = {
        **stamp(
            view,
            {"tool": "analyse_symbol", "symbol": view.symbol, "direction": direction, "detail": detail},
            view.calibration,
        ),
        "detail": detail,
        "feed": enrichment["feed_health"],
        "recommendation": recommend(
            windows["s30"], windows["s180"], trend, enrichment["feed_health"], holes, direction
        ),
        "order_flow": windows["s30"],
        "order_flow_mtf": windows,
        "order_flow_trend": trend,
        "whales": recent_whales(view)[: WHALES_FULL if detail == "full" else WHALES_BRIEF],
        "voids": holes,
        "binance_enrichment": enrichment,
    }
    made["summary"] = _sentence(made)
    return made if detail == "full" else brief(made)


def signal_answer(moment: Moment, symbol: str, window: int | str = 30, detail: str = "full") -> dict:
    """Return one window of order flow with its whales and voids."""
    view = moment.view(symbol)
    flow = order_flow_signal(view, window)
    whales = recent_whales(view, window_s=max(60, flow["window_s"]))
    shown = whales[: WHALES_FULL if detail == "full" else WHALES_BRIEF]
    made = {
        **stamp(
            view,
            {"tool": "get_order_flow", "symbol": view.symbol, "window": flow["window_s"], "detail": detail},
            view.calibration,
        ),
        "detail": detail,
        "order_flow": flow if detail == "full" else brief_flow(flow),
        "whales": shown,
        "whales_total": None if flow["parts"]["whales"]["value"] is None else len(whales),
        "voids": voids(view) if detail == "full" else _brief_voids(voids(view)),
    }
    made["summary"] = _flow_sentence(view.symbol, flow)
    return made


def trend_answer(moment: Moment, symbol: str, window: int | str = 300, detail: str = "full") -> dict:
    """Return the trend of order flow over a window."""
    view = moment.view(symbol)
    trend = order_flow_trend(view, window)
    made = {
        **stamp(
            view, {"tool": "get_order_flow_trend", "symbol": view.symbol, "window": trend["window_s"], "detail": detail}
        ),
        "detail": detail,
        "order_flow_trend": trend if detail == "full" else _brief_trend(trend),
    }
    made["summary"] = f"{view.symbol}: order-flow trend over {trend['window_s']} s " + (
        trend["trend"] or f"not known, {trend['reason']}"
    )
    return made


def get_order_flow_signal(moment: Moment, symbol: str) -> dict:
    """Return the 30 s signal, by the name the plan gave it."""
    return get_signal(moment, symbol)


def get_signal(moment: Moment, symbol: str, window: int | str = 30) -> dict:
    """Return the signal of any window, in seconds or by alias, with whales and voids."""
    view = moment.view(symbol)
    flow = order_flow_signal(view, window)
    return {**flow, "whales": recent_whales(view, window_s=max(60, flow["window_s"])), "voids": voids(view)}


def get_order_flow_trend(moment: Moment, symbol: str, window: int | str = 300) -> dict:
    """Return the trend of any window."""
    return order_flow_trend(moment.view(symbol), window)


def stamp(view: View, arguments: dict, calibration: dict | None = None) -> dict:
    """Return what says of which record, moment and code an answer is, and by which calibration."""
    moment = view.moment
    return {
        "symbol": view.symbol,
        "record": moment.record,
        "as_of": utc_text(moment.as_of_ns),
        "as_of_ns": moment.as_of_ns,
        "seq": moment.seq,
        "code": code_version(moment.run.folder.name),
        "key": moment.key(arguments, calibration),
    }


def _flow_sentence(symbol: str, flow: dict) -> str:
    if flow["side"] is None:
        return f"{symbol}: order flow over {flow['window_s']} s is not known, {flow['reason']}"
    told = f"{symbol}: order flow {flow['signal']} over {flow['window_s']} s, score {flow['score']:g} of -100..100"
    return told + (f", without {' and '.join(flow['missing'])}" if flow["missing"] else "")


def _sentence(made: dict) -> str:
    """Say the whole in two or three sentences, order flow first."""
    flow, trend, advice = made["order_flow"], made["order_flow_trend"], made["recommendation"]
    whales = flow["parts"]["whales"]
    said = _flow_sentence(made["symbol"], flow) + ". "
    said += f"Trend over {trend['window_s']} s: {trend['trend'] or 'not known'}. "
    if whales["value"] is not None:
        said += f"Large orders of {whales['window_s']} s: {whales['n']}, net {whales['net_usd']:+,} USD, "
        said += f"{whales['activity']}. "
    return said + f"{advice['direction']}: {advice['reason']}."


def _brief(made: dict, *names: str) -> dict:
    return {name: made[name] for name in ("value", *names, "reason") if name in made}


def brief_flow(flow: dict) -> dict:
    """Return a signal with the parts it rests on, cut to what is read first."""
    parts = {
        name: _brief(part, "window_s", "covered_s", "n", "age_ms", "ratio", "net_usd", "activity")
        for name, part in flow["parts"].items()
    }
    kept = ("window_s", "alias", "side", "signal", "score", "unit", "called", "probability", "v1")
    kept += ("whale_activity", "pressure_side", "reason")
    return {**{name: flow[name] for name in kept if name in flow}, "parts": parts}


def _brief_trend(trend: dict) -> dict:
    kept = (
        "window_s",
        "covered_s",
        "n",
        "side",
        "trend",
        "whale_activity_trend",
        "imbalance_trend",
        "pressure_trend",
        "pressure_side",
        "scores",
        "reason",
        "imbalance_reason",
    )
    return {name: trend[name] for name in kept if name in trend}


def _brief_voids(found: dict) -> dict:
    return {
        side: _brief(void, "near_bps", "far_bps", "missing_share", "adverse_to", "favourable_to")
        for side, void in found.items()
    }


def brief(made: dict) -> dict:
    """Return the answer cut to two to four kilobytes; `detail=full` has the evidence of every number."""
    fields = {
        name: {"value": field["value"], "unit": field["unit"]}
        if field["value"] is not None
        else {"value": None, "unit": field["unit"], "reason": field["reason"]}
        for name, field in made["binance_enrichment"].items()
        if name not in ("wicks", "feed_health")
    }
    fields["feed_health"] = {"value": made["feed"]["value"], "unit": "state"}
    fields["wicks"] = {name: _brief(field, "unit") for name, field in made["binance_enrichment"]["wicks"].items()}
    windows = {
        name: {key: flow[key] for key in ("window_s", "alias", "side", "score", "reason") if key in flow}
        for name, flow in made["order_flow_mtf"].items()
        if name != "s30"
    }
    return {
        **made,
        "order_flow": brief_flow(made["order_flow"]),
        "order_flow_mtf": windows,
        "order_flow_trend": _brief_trend(made["order_flow_trend"]),
        "voids": _brief_voids(made["voids"]),
        "binance_enrichment": fields,
    }
