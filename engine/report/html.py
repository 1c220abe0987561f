"""Write the measuring report: one HTML file that needs nothing but a browser."""

from importlib import resources
from pathlib import Path

from engine.record.store import write_text_atomic
from engine.report import overview, sections, tables
from engine.report.words import (
    ENOUGH_TRADES,
    UNKNOWN,
    count,
    groups,
    judgement,
    member,
    names,
    number,
    percent,
    plain,
    probability,
    signed,
    text,
    utc,
    wilson,
    with_interval,
)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_VERDICTS = {
    "insufficient": "Insufficient",
    "indistinguishable": "Not distinguishable",
    "better": "Better",
    "worse": "Worse",
}


def write_report(path: Path, result: dict, detail: dict) -> None:
    """Write the report of one `measure` result; `detail` holds the trades and what each rule made of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, render_report(result, detail))


def render_report(result: dict, detail: dict) -> str:
    """Return the report as HTML; rules keep their order, flow rules before price-only controls."""
    every = {str(name): rule or {} for name, rule in (result.get("rules") or {}).items()}
    rules = {name: every[name] for name in sorted(every, key=lambda name: every[name].get("kind") == "control")}
    parts = [
        _header(result, rules),
        _how_to_read(result),
        _navigation(rules),
        _verdicts(result, rules),
        sections.outcomes(result, rules),
        sections.change(result, rules, detail),
        sections.equity(rules, detail),
        sections.timing(rules, detail),
        sections.excursion(rules, detail),
        sections.attribution(result),
        sections.calibration(result),
        sections.honesty(result, rules),
    ]
    asset = resources.files("engine.report")
    style, script = ((asset / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>What each exit rule was worth: {text(_scope(result))}</title>
<style>{style}</style></head>
<body><main>
{chr(10).join(part for part in parts if part)}
</main><script>{script}</script></body></html>
"""


def _facts(pairs: list[tuple[str, str]]) -> str:
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{name}</dt><dd>{tables.unknown(value)}</dd></div>" for name, value in pairs)
        + "</dl>"
    )


def _symbols(result: dict) -> str:
    return ", ".join(names(result.get("symbols"))) or UNKNOWN


def _scope(result: dict) -> str:
    return (
        f"{count(result.get('trades'))} trades, {_symbols(result)}, {utc(result.get('from_ns'))} to "
        f"{utc(result.get('to_ns'))} UTC"
    )


def _lead(value: object) -> str:
    if isinstance(value, dict) and value:
        return ", ".join(f"{text(name)} {number(lead, 0, ' ms')}" for name, lead in value.items())
    if isinstance(value, (list, tuple)) and value:
        return ", ".join(number(lead, 0, " ms") for lead in value)
    return number(value, 0, " ms")


def _header(result: dict, rules: dict[str, dict]) -> str:
    quotes = {"recorded": "recorded from the broker", "modelled": "modelled, not recorded"}.get(
        result.get("quotes"), UNKNOWN
    )
    sessions = names(result.get("sessions"))
    facts = [
        (
            "Baseline",
            text(result.get("baseline") or UNKNOWN)
            + (" exits: stop, take profit, time limit" if result.get("baseline") == "mechanical" else ""),
        ),
        ("Broker quotes", quotes),
        ("Latency, decision to fill", number(result.get("latency_ms"), 0, " ms")),
        ("Venue ahead of broker", _lead(result.get("lead_ms"))),
        ("Coverage, trade time with trusted feeds", percent(result.get("coverage"))),
        ("Left out: open at the end", count(result.get("open_at_end"))),
        ("Separate groups of trades", groups(result, rules)),
        ("Mean result without any rule", signed(result.get("baseline_r"), 3, " R")),
    ]
    warning = ""
    if result.get("quotes") == "modelled":
        warning += (
            '<p class="warning"><b>Broker quotes are modelled.</b> Fills, spreads and results below stand on a model '
            "of the broker’s prices, not on recorded ones.</p>"
        )
    elif result.get("quotes") != "recorded":
        warning += '<p class="warning"><b>It is not known whether broker quotes were recorded or modelled.</b></p>'
    trades = plain(result.get("trades"))
    if trades is None or trades < ENOUGH_TRADES:
        warning += (
            f'<p class="warning"><b>Insufficient to distinguish from chance.</b> {count(trades).capitalize()} trades; '
            f"under {ENOUGH_TRADES} "
            "no rule can be judged here. The tables are shown; nothing is ranked.</p>"
        )
    listed = "".join(f"<li>{text(session)}</li>" for session in sessions)
    more = (
        f"<details><summary>Sessions measured: {count(len(sessions))}</summary><ul>{listed}</ul></details>"
        if listed
        else ""
    )
    return (
        '<header><p class="eyebrow">tapeguard measure</p><h1>What each exit rule was worth</h1><p '
        f'class="scope">{tables.unknown(text(_scope(result)))}</p>'
        f"{warning}{_facts(facts)}{more}</header>"
    )


def _how_to_read(result: dict) -> str:
    terms = (
        ("R", "the risk a trade was opened with: the distance from entry to its first stop. −1 R is a full stop."),
        (
            "ΔR",
            (
                "result with the rule less result without it, on the same trade and the same quotes. 0 where the rule "
                "did not fire."
            ),
        ),
        (
            "ε",
            (
                f"the least ΔR that counts, here {number(result.get('epsilon_r'), 2, ' R')}: a tenth of the risk, or "
                "two median spreads."
            ),
        ),
        (
            "Matched random exits",
            "the placebo: exits at random, as often and as early as the rule’s own. What they gain is not skill.",
        ),
        (
            "Matched moments",
            "the same action on other trades of the same age and open result: what counts are held against.",
        ),
        ("Price-only twin", "a plain tighter stop that acts as often. Order flow has to beat it to be worth having."),
        ("Excess", "mean ΔR less that of matched random exits: the number a rule is judged by."),
        (
            "Saved / harmed",
            "saved: a losing trade made better by at least ε. Harmed: any trade made worse by at least ε.",
        ),
    )
    return (
        '<dl class="terms">'
        + "".join(f"<div><dt>{name}</dt><dd>{tables.unknown(words)}</dd></div>" for name, words in terms)
        + "</dl>"
    )


def _navigation(rules: dict[str, dict]) -> str:
    if len(rules) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" data-show="{n}" aria-pressed="false">{text(name)}</button>'
        for n, name in enumerate(rules)
    )
    return (
        '<nav aria-label="rules shown"><span>Show</span><button type="button" data-show="" aria-pressed="true">all '
        f"rules</button>{buttons}</nav>"
    )


def _card(n: int, name: str, rule: dict, trades: int | None) -> str:
    words, style = judgement(rule, trades)
    big = []
    for key, tone in (("saved", "better"), ("harmed", "worse")):
        ci = wilson(rule.get(key), trades)
        below = (
            f"{percent(plain(rule[key]) / trades)} of all [{number(100 * ci[0], 1)}, {number(100 * ci[1], 1)}]"
            if ci
            else ""
        )
        big.append(
            f'<div><p class="big"><span class="swatch {tone}"></span>{tables.unknown(count(rule.get(key)))} '
            f'{key}</p><p class="small">{below}</p></div>'
        )
    kind = "price-only control" if rule.get("kind") == "control" else "order flow"
    sentence = text(rule["sentence"]) if rule.get("sentence") else f"The headline sentence is {UNKNOWN}."
    facts = [
        ("Excess over matched random exits", with_interval(rule.get("excess_r"), 3, " R")),
        (
            "p, and corrected for all rules",
            f"{probability(member(rule, 'excess_r', 'p'))}, {probability(member(rule, 'excess_r', 'p_holm'))}",
        ),
        ("Against its price-only twin", with_interval(rule.get("twin_r"), 3, " R")),
        ("Least effect this sample can see", number(rule.get("minimum_detectable_r"), 3, " R")),
        ("Stale-quote part, not skill", signed(rule.get("stale_quote_r"), 3, " R")),
        ("Fired", f"{count(rule.get('fired'))} of {count(trades)}"),
    ]
    preset = f' <span class="preset">{text(rule["preset"])}</span>' if rule.get("preset") else ""
    return (
        f'<article class="card" data-rule="{n}"><h3>{text(name)}{preset}<span class="kind">{kind}</span></h3>'
        f'<p class="chip chip-{style}">{_VERDICTS[style]}</p><div class="bigs">{"".join(big)}<div class="judged"><p '
        f'class="big">{words}</p></div></div>'
        f'{overview.mix(rule, trades)}<p class="sentence">{sentence}</p>{_facts(facts)}</article>'
    )


def _verdicts(result: dict, rules: dict[str, dict]) -> str:
    if not rules:
        return sections.section("verdicts", "Verdicts", "No rule was measured.", "")
    trades = plain(result.get("trades"))
    trades = int(trades) if trades else None
    numbered = [
        (rule.get("kind") == "control", _card(n, name, rule, trades)) for n, (name, rule) in enumerate(rules.items())
    ]
    body = f'<div class="cards">{"".join(card for control, card in numbered if not control)}</div>'
    controls = "".join(card for control, card in numbered if control)
    if controls:
        body += (
            '<h3 class="group">Price-only controls: what order flow has to beat</h3><div '
            f'class="cards">{controls}</div>'
        )
    few = trades is None or trades < ENOUGH_TRADES
    lede = (
        "Fewer than 100 trades: tables and charts are shown, no rule is judged and none is ranked."
        if few
        else (
            "A rule is judged by its excess over matched random exits, never by the number it saved. Rules are in the "
            "order they were given, not ranked."
        )
    )
    key = " ".join(
        f'<i class="{style}"></i>{words}'
        for words, style in (
            ("saved", "better"),
            ("improved", "better-soft"),
            ("neutral", "neutral"),
            ("too late", "late"),
            ("harmed", "worse"),
        )
    )
    return sections.section(
        "verdicts",
        "Verdicts",
        lede,
        f'<p class="key">Bar in each card, the trades a rule acted on: {key}</p>{body}'
        + overview.excess_chart(rules, trades),
    )
