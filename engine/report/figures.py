"""The charts drawn once for each rule, from the trades themselves."""

import math

import numpy as np

from engine.measure.outcomes import HARMED, IMPROVED, SAVED, Policy, Trades
from engine.report.charts import Canvas, Scale, axis_below, axis_left, labels, second_ticks, short, spread, steps
from engine.report.words import bounds, count, duration, member, number, plain, signed, text, wilson

WIDTH = 356
LEFT, RIGHT = 44, WIDTH - 12
SHOWN_DOTS = 1500
SHOWN_STEPS = 240


def figure(body: str, caption: str, note: str = "", rule: int | None = None) -> str:
    """Wrap a drawing with what it shows; `rule` lets the page show one rule alone."""
    which = "" if rule is None else f' data-rule="{rule}"'
    return (
        f"<figure{which}><figcaption>{caption}</figcaption>{body}{f'<p class=note>{note}</p>' if note else ''}</figure>"
    )


def empty(caption: str, why: str, rule: int | None = None) -> str:
    """Return the place of a chart for which there is nothing to draw."""
    return figure(f'<p class="empty">{text(why)}</p>', caption, rule=rule)


def finite(values) -> np.ndarray:
    """Return the values that are known."""
    known = np.asarray(values, float).ravel()
    return known[np.isfinite(known)]


def change_edges(changes: list[np.ndarray], epsilon: float) -> np.ndarray:
    """Return bin edges in R that hold the changes of all rules; 0 and, where it is wide enough, epsilon are edges."""
    low, high = spread(np.concatenate([finite(change) for change in changes]) if changes else [], -0.5, 0.5)
    width = (high - low) / 40
    if round(epsilon / width):
        width = epsilon / round(epsilon / width)
    return width * np.arange(math.floor(low / width), math.ceil(high / width) + 1)


def change_histogram(
    rule: int, name: str, change: np.ndarray, draws, result: dict, epsilon: float, edges: np.ndarray
) -> str:
    """Draw how the fired trades changed, and below it the mean beside the means of matched random exits."""
    change, draws = finite(change), finite([] if draws is None else draws)
    caption = f"<b>{text(name)}</b>"
    if not len(change):
        return empty(caption, "This rule did not fire: there is no change to show.", rule)
    canvas = Canvas(WIDTH, 340 if len(draws) else 212)
    _changes(canvas, edges, change, epsilon)
    beyond = int(np.sum((change < edges[0]) | (change > edges[-1])))
    note = f"{count(beyond)} beyond the axis, in the outermost bars." if beyond else ""
    if len(draws):
        _placebo(canvas, draws, *_judged(result))
    else:
        note += " Matched random exits: not known."
    return figure(canvas.svg("change", f"{name}: change in R of {len(change)} fired trades"), caption, note, rule)


def _judged(result: dict) -> tuple[float | None, tuple[float, float] | None]:
    """Return the mean that is held against the draws, and its interval: the placebo and the excess over it."""
    placebo, excess = plain(member(result, "placebo_r", "mean")), plain(member(result, "excess_r", "mean"))
    ci = bounds(member(result, "excess_r", "ci95"))
    if placebo is None or excess is None:
        return None, None
    return placebo + excess, ci and (placebo + ci[0], placebo + ci[1])


def _changes(canvas: Canvas, edges: np.ndarray, change: np.ndarray, epsilon: float) -> None:
    scale = Scale(edges[0], edges[-1], LEFT, RIGHT)
    found, _ = np.histogram(np.clip(change, edges[0], edges[-1]), edges)
    height = Scale(0, max(int(found.max()), 1) * 1.05, 172, 28)
    ticks = steps(0, height.high, 4, whole=True)
    canvas.rect(scale(-epsilon), height.end, scale(epsilon), height.start, "band")
    axis_left(canvas, height, LEFT, RIGHT, ticks, labels(ticks), "fired trades")
    for n, low, high in zip(found, edges, edges[1:]):
        if n:
            middle = (low + high) / 2
            style = "better" if middle >= epsilon else "worse" if middle <= -epsilon else "neutral"
            canvas.rect(
                scale(low) + 0.5,
                height(n),
                scale(high) - 0.5,
                height.start,
                f"mark {style}",
                f"{signed(low, 2)} to {signed(high, 2)} R: {count(n)}",
            )
    ticks = steps(scale.low, scale.high, 5)
    axis_below(canvas, scale, height.start, ticks, labels(ticks, sign=True), "ΔR of one trade, R")
    canvas.line(scale(0), height.end, scale(0), height.start, "zero")


def _placebo(canvas: Canvas, draws: np.ndarray, mean: float | None, ci: tuple[float, float] | None) -> None:
    scale = Scale(*spread(draws, 0.0, *([] if mean is None else [mean]), *(ci or ())), LEFT, RIGHT)
    found, edges = np.histogram(np.clip(draws, scale.low, scale.high), np.linspace(scale.low, scale.high, 49))
    height = Scale(0, max(int(found.max()), 1), 302, 252)
    for n, low, high in zip(found, edges, edges[1:]):
        if n:
            canvas.rect(
                scale(low),
                height(n),
                scale(high),
                height.start,
                "mark placebo",
                f"{count(n)} of {count(len(draws))} draws: {signed(low)} to {signed(high)} R",
            )
    ticks = steps(scale.low, scale.high, 4)
    axis_below(canvas, scale, height.start, ticks, labels(ticks, sign=True), "mean ΔR, R a trade")
    canvas.line(scale(0), 244, scale(0), height.start, "zero")
    canvas.write(4, 224, "matched random exits, against this rule", "unit")
    if mean is not None:
        if ci:
            canvas.whisker(scale(ci[0]), scale(ci[1]), 240)
        canvas.line(scale(mean), 236, scale(mean), height.start, "rule")
        canvas.dot(scale(mean), 240, 3.5, "mark ink")


def equity_range(trades: Trades, policies: list[Policy]) -> tuple[float, float]:
    """Return one range of cumulative R for the baseline and every rule."""
    return spread(np.concatenate([[0.0], *(np.concatenate(_arms(trades, policy)) for policy in policies)]))


def _arms(trades: Trades, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(trades.y) & np.isfinite(policy.y)
    with np.errstate(over="ignore", invalid="ignore"):
        arms = [np.nan_to_num(np.cumsum(np.where(known, arm, 0.0))) for arm in (trades.y, policy.y)]
    return arms[0], arms[1]


def equity(rule: int, name: str, trades: Trades, policy: Policy, result: dict, ends: tuple[float, float]) -> str:
    """Draw cumulative R over the trades in order of entry, with and without the rule."""
    caption = f"<b>{text(name)}</b>"
    if not len(trades):
        return empty(caption, "There are no trades.", rule)
    before, after = (np.concatenate([[0.0], arm]) for arm in _arms(trades, policy))
    at = np.unique(np.linspace(0, len(trades), min(len(trades), SHOWN_STEPS) + 1).astype(int))
    canvas = Canvas(WIDTH, 236)
    across, up = Scale(0, len(trades), LEFT + 4, RIGHT - 44), Scale(*ends, 192, 28)
    ticks = steps(*ends, 5)
    axis_left(canvas, up, across.start, across.end, ticks, labels(ticks), "cumulative R")
    changes = np.flatnonzero(np.diff(trades.session)) + 1
    for change in changes[:40]:
        canvas.line(across(change), 192, across(change), 196, "tick")
    ticks = steps(0, len(trades), 4, whole=True)
    axis_below(canvas, across, 192, ticks, labels(ticks), "trades in order of entry")
    canvas.line(across.start, up(0), across.end, up(0), "zero")
    canvas.path([across(i) for i in at], [up(before[i]) for i in at], "mark stroke baseline")
    canvas.path([across(i) for i in at], [up(after[i]) for i in at], "mark stroke with")
    low, high = sorted((up(before[-1]), up(after[-1])))
    push = max(0.0, (13 - (high - low)) / 2)
    for value, style, above in (
        (before[-1], "ink-quiet", before[-1] > after[-1]),
        (after[-1], "ink-better", before[-1] <= after[-1]),
    ):
        place = up(value) + (-push if above else push)
        canvas.write(
            across.end + 5, place + 4, number(value, 1 if abs(value) < 100 else 0, sign=True), f"value {style}"
        )
    unknown = int(np.sum(~(np.isfinite(trades.y) & np.isfinite(policy.y))))
    drawdown = member(result, "max_drawdown_r")
    note = (
        f"Deepest fall {number(member(drawdown, 'before'), 1)} R without, {number(member(drawdown, 'after'), 1)} R "
        "with."
    )
    note += f" {count(unknown)} trades without a known result are left out of both lines." if unknown else ""
    points = " ".join(
        f'data-{key}="{",".join(values)}"'
        for key, values in (
            ("n", [str(i) for i in at]),
            ("a", [short(before[i]) for i in at]),
            ("b", [short(after[i]) for i in at]),
        )
    )
    hover = (
        f' data-from="{short(across.start)}" data-to="{short(across.end)}" {points}' if ends[1] - ends[0] < 1e7 else ""
    )
    return figure(
        canvas.svg("equity", f"{name}: cumulative R with and without the rule", "hover", hover), caption, note, rule
    )


def leads(trades: Trades, policy: Policy, missing: int) -> np.ndarray:
    """Return how long before the baseline exit the rule had ended each fired trade, s."""
    known = policy.fired & (policy.close_ns != missing) & (trades.close_ns != missing)
    return (trades.close_ns[known] - policy.close_ns[known]) / 1e9


def lead_edges(found: list[np.ndarray]) -> np.ndarray:
    """Return bin edges that hold the leads of all rules, evenly spaced in the logarithm."""
    every = np.concatenate([lead[lead > 0] for lead in found] or [np.zeros(0)])
    low, high = (float(every.min()), float(every.max())) if len(every) else (1.0, 10.0)
    low = max(low, 1e-3)
    return np.geomspace(low * 0.98, max(high * 1.02, low * 10), 29)


def lead_histogram(rule: int, name: str, found: np.ndarray, result: dict, edges: np.ndarray) -> str:
    """Draw how long before the baseline exit the rule was out."""
    caption = f"<b>{text(name)}</b>"
    ahead = found[found > 0]
    if not len(ahead):
        return empty(caption, "This rule was never out before the baseline.", rule)
    canvas = Canvas(WIDTH, 196)
    scale = Scale(edges[0], edges[-1], LEFT, RIGHT, log=True)
    counts, _ = np.histogram(np.clip(ahead, edges[0], edges[-1]), edges)
    height = Scale(0, int(counts.max()) * 1.05, 154, 28)
    median, quarters = plain(member(result, "lead_s", "median")), bounds(member(result, "lead_s", "iqr"))
    if quarters and quarters[0] > 0:
        canvas.rect(scale(quarters[0]), height.end, scale(quarters[1]), height.start, "band")
    ticks = steps(0, height.high, 4, whole=True)
    axis_left(canvas, height, LEFT, RIGHT, ticks, labels(ticks), "fired trades")
    for n, low, high in zip(counts, edges, edges[1:]):
        if n:
            canvas.rect(
                scale(low) + 0.5,
                height(n),
                scale(high) - 0.5,
                height.start,
                "mark lead",
                f"{duration(low)} to {duration(high)}: {count(n)}",
            )
    axis_below(
        canvas, scale, height.start, *second_ticks(edges[0], edges[-1]), "time before the baseline exit (logarithmic)"
    )
    if median and median > 0:
        canvas.line(scale(median), height.end, scale(median), height.start, "rule")
    half = " to ".join(duration(end) for end in quarters) if quarters else "not known"
    note = f"Median {duration(median)}, middle half {half}."
    note += (
        f" {count(len(found) - len(ahead))} fired trades ended no earlier and are not drawn."
        if len(found) > len(ahead)
        else ""
    )
    return figure(
        canvas.svg("lead", f"{name}: time between the exit under the rule and the baseline exit"), caption, note, rule
    )


def _some(chosen: np.ndarray) -> np.ndarray:
    """Return evenly spaced places of a mask, so that a page of many trades stays small."""
    places = np.flatnonzero(chosen)
    return places if len(places) <= SHOWN_DOTS else places[np.linspace(0, len(places) - 1, SHOWN_DOTS).astype(int)]


def _axes(canvas: Canvas, across: Scale, up: Scale, names: tuple[str, str]) -> None:
    ticks = steps(up.low, up.high, 5)
    axis_left(canvas, up, across.start, across.end, ticks, labels(ticks, sign=True), names[1])
    ticks = steps(across.low, across.high, 5)
    axis_below(canvas, across, up.start, ticks, labels(ticks, sign=True), names[0], top=up.end)


def fire_scatter(rule: int, name: str, trades: Trades, policy: Policy, classes: np.ndarray) -> str:
    """Draw, for each fired trade, the open result at the rule's fill against what the baseline ended with."""
    caption = f"<b>{text(name)}</b>"
    known = policy.fired & np.isfinite(policy.fill_gain_r) & np.isfinite(trades.y)
    if not known.any():
        return empty(caption, "This rule did not fire.", rule)
    shown = _some(known)
    across = Scale(*spread(policy.fill_gain_r[known], -0.5, 0.5), LEFT, RIGHT)
    up = Scale(*spread(trades.y[known], -1.0, 1.0), 222, 28)
    canvas = Canvas(WIDTH, 262)
    _axes(canvas, across, up, ("open result at the rule's fill, R", "result without the rule, R"))
    low, high = max(across.low, up.low), min(across.high, up.high)
    if low < high:
        canvas.line(across(low), up(low), across(high), up(high), "diagonal")
    for codes, style in (((IMPROVED, SAVED), "better"), (HARMED, "worse"), (None, "quiet")):
        those = (
            ~np.isin(classes[shown], (IMPROVED, SAVED, *HARMED)) if codes is None else np.isin(classes[shown], codes)
        )
        places = shown[those]
        canvas.dots(
            [across(x) for x in policy.fill_gain_r[places]],
            [up(y) for y in trades.y[places]],
            f"mark dots dots-{style}",
        )
    note = f"{count(len(shown))} of {count(known.sum())} drawn." if len(shown) < known.sum() else ""
    return figure(
        canvas.svg("fired", f"{name}: open result at the fill against the result without the rule"), caption, note, rule
    )


def excursions(trades: Trades) -> str:
    """Draw how far each trade went for and against the position before the baseline left it."""
    caption = "<b>All trades, without any rule</b>"
    known = np.isfinite(trades.mae_r) & np.isfinite(trades.mfe_r) & np.isfinite(trades.y)
    if not known.any():
        return empty(caption, "The excursions of these trades are not known.")
    shown = _some(known)
    across, up = (
        Scale(*spread(trades.mae_r[known], 0.0), LEFT, RIGHT),
        Scale(*spread(trades.mfe_r[known], 0.0), 222, 28),
    )
    canvas = Canvas(WIDTH, 262)
    _axes(canvas, across, up, ("worst open result (MAE), R", "best open result (MFE), R"))
    for those, style in ((trades.y[shown] > 0, "won"), (trades.y[shown] <= 0, "lost")):
        places = shown[those]
        canvas.dots(
            [across(x) for x in trades.mae_r[places]], [up(y) for y in trades.mfe_r[places]], f"mark dots dots-{style}"
        )
    note = f"{count(len(shown))} of {count(known.sum())} drawn." if len(shown) < known.sum() else ""
    return figure(canvas.svg("excursions", "worst against best open result of each trade"), caption, note)


def calibration(bins: list[dict]) -> str:
    """Draw predicted against observed shares of right calls, with Wilson intervals; on the diagonal they agree."""
    across, up = Scale(0, 1, LEFT, RIGHT), Scale(0, 1, 222, 28)
    canvas = Canvas(WIDTH, 262)
    ticks = [0, 0.25, 0.5, 0.75, 1.0]
    axis_left(canvas, up, LEFT, RIGHT, ticks, [f"{tick:.0%}" for tick in ticks], "observed to go the score’s way")
    axis_below(canvas, across, 222, ticks, [f"{tick:.0%}" for tick in ticks], "predicted to", top=28)
    canvas.line(across(0), up(0), across(1), up(1), "diagonal")
    canvas.line(across(0), up(0.5), across(1), up(0.5), "zero")
    largest = max(item["n"] for item in bins)
    for item in bins:
        predicted, observed, n = item["predicted"], item["right"] / item["n"], item["n"]
        low, high = wilson(item["right"], n)
        canvas.line(across(predicted), up(low), across(predicted), up(high), "whisker")
        canvas.dot(
            across(predicted),
            up(observed),
            3 + 4 * (n / largest) ** 0.5,
            "mark tone-a",
            f"score {item['from']:g} to {item['to']:g}: predicted {predicted:.0%}, observed {observed:.0%}, {count(n)} calls",
        )
    return figure(
        canvas.svg("calibration", "predicted against observed share of calls after which price went the score's way"),
        "<b>Reliability curve</b>",
        "Dots: sizes of the score, larger with more calls; lines: 95% Wilson intervals. Level line: a coin.",
    )
