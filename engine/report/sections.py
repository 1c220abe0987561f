"""The parts of the report below the verdicts, each a heading, one line on how to read it, and tables or charts."""

import numpy as np

from engine.kernel.records import MISSING
from engine.measure.outcomes import Trades
from engine.report import figures, overview, tables
from engine.report.words import UNKNOWN, count, groups, member, names, number, percent, plain, text


def section(name: str, title: str, lede: str, body: str) -> str:
    """Return a section of the page with its heading and one sentence that says what it shows."""
    return f'<section id="{name}"><h2>{title}</h2><p class="lede">{lede}</p>{body}</section>'


def grid(items: list[str]) -> str:
    """Return items side by side."""
    return f'<div class="grid">{"".join(items)}</div>'


def outcomes(result: dict, rules: dict[str, dict]) -> str:
    """Return what became of every trade, saved and harmed side by side."""
    if not rules:
        return ""
    trades = plain(result.get("trades"))
    trades = int(trades) if trades else None
    lede = (
        f"For each rule every one of the {count(trades)} trades is saved, improved, harmed, neutral, too late or not "
        "fired. Beneath each count: share of all "
        "trades, with its 95% Wilson interval."
    )
    return section(
        "outcomes",
        "Outcomes over all trades",
        tables.unknown(lede),
        tables.outcome_table(rules, trades)
        + overview.saved_chart(rules, trades)
        + "<h3>In R, against everything it is compared with</h3>"
        + tables.effect_table(rules)
        + "<h3>As a trader reads it, without the rule → with it</h3>"
        + tables.trader_table(rules),
    )


def _of(detail: dict, key: str, name: str):
    return (detail.get(key) or {}).get(name)


def change(result: dict, rules: dict[str, dict], detail: dict) -> str:
    """Return how far each rule moved results, beside what random exits did."""
    changes = {}
    for name in rules:
        change, policy = _of(detail, "delta_r", name), _of(detail, "policies", name)
        changes[name] = (
            None
            if change is None
            else np.asarray(change, float)[np.asarray(policy.fired, bool)]
            if policy is not None
            else np.asarray(change, float)
        )
    epsilon = plain(result.get("epsilon_r")) or 0.0
    edges = figures.change_edges([change for change in changes.values() if change is not None], epsilon)
    items = [
        figures.empty(f"<b>{text(name)}</b>", "The changes of single trades are not known.", n)
        if changes[name] is None
        else figures.change_histogram(n, name, changes[name], _of(detail, "placebo_r", name), rule, epsilon, edges)
        for n, (name, rule) in enumerate(rules.items())
    ]
    key = (
        '<p class="key"><i class="better"></i>better by ε or more <i class="neutral"></i>between <i '
        'class="worse"></i>worse by ε or more '
        '<i class="placebo"></i>mean of one draw of matched random exits <i class="dot ink"></i>the rule, '
        "without its stale-quote part, and 95% interval</p>"
    )
    lede = (
        "Above: the trades a rule fired on, one axis for all rules. Below: if the dot lies among the grey bars, chance "
        "alone does as well."
    )
    return section("change", "How much each trade changed", lede, key + grid(items)) if items else ""


def equity(rules: dict[str, dict], detail: dict) -> str:
    """Return cumulative results with and without each rule."""
    trades: Trades | None = detail.get("trades")
    policies = {name: _of(detail, "policies", name) for name in rules}
    known = [policy for policy in policies.values() if policy is not None]
    if trades is None or not known:
        return ""
    ends = figures.equity_range(trades, known)
    items = [
        figures.empty(f"<b>{text(name)}</b>", "Results with this rule are not known.", n)
        if policies[name] is None
        else figures.equity(n, name, trades, policies[name], rule, ends)
        for n, (name, rule) in enumerate(rules.items())
    ]
    key = '<p class="key"><i class="stroke baseline"></i>without any rule <i class="stroke with"></i>with the rule</p>'
    lede = (
        "Every trade risks 1 R and nothing is compounded. One pair of axes for all rules; marks below the axis are "
        "session ends."
    )
    return section("equity", "Cumulative result with and without each rule", lede, key + grid(items))


def timing(rules: dict[str, dict], detail: dict) -> str:
    """Return how long before the baseline each rule was out."""
    trades: Trades | None = detail.get("trades")
    found = {
        name: figures.leads(trades, policy, MISSING)
        for name in rules
        if trades is not None and (policy := _of(detail, "policies", name)) is not None
    }
    if not found:
        return ""
    edges = figures.lead_edges(list(found.values()))
    items = [
        figures.lead_histogram(n, name, found[name], rule, edges)
        for n, (name, rule) in enumerate(rules.items())
        if name in found
    ]
    lede = (
        "Time from the end of the trade under the rule to the end it would have had. Being early is neither good nor "
        "bad by itself. Shaded: middle half; line: median."
    )
    return section("lead", "How long before the baseline exit", lede, grid(items))


def excursion(rules: dict[str, dict], detail: dict) -> str:
    """Return what trades had reached when a rule stepped in, best and worst."""
    trades: Trades | None = detail.get("trades")
    if trades is None or not len(trades):
        return ""
    items = [figures.excursions(trades)]
    for n, name in enumerate(rules):
        policy, classes = _of(detail, "policies", name), _of(detail, "classes", name)
        if policy is not None and classes is not None:
            items.append(figures.fire_scatter(n, name, trades, policy, np.asarray(classes)))
    key = (
        '<p class="key">All trades: <i class="dot won"></i>ended above zero <i class="dot lost"></i>at or below '
        "zero</p>"
        '<p class="key">Rules: <i class="dot better"></i>saved or improved <i class="dot worse"></i>harmed <i '
        'class="dot quiet"></i>neutral '
        '<i class="diagonal"></i>leaving and staying come to the same</p>'
    )
    lede = (
        "First: how far all trades went for and against (MFE, MAE). Then, for each rule, where it stepped in: below "
        "the diagonal staying would have ended lower, above it higher. A rule that only moves the stop does not leave "
        "there."
    )
    return section("excursions", "Where the trades went and where the rules stepped in", lede, key + grid(items))


def attribution(result: dict) -> str:
    """Return how the value of all rules is shared out among them."""
    given = result.get("attribution") if isinstance(result.get("attribution"), dict) else {}
    rules = names(given.get("names")) or names(list(given.get("solo") or {}))
    if not rules:
        return section("attribution", "Which rule earned it", f"Attribution over coalitions of rules is {UNKNOWN}.", "")
    displaced = given.get("displaced") if isinstance(given.get("displaced"), dict) else {}
    together = (
        '<figure class="half"><figcaption><b>Two rules together, total R beyond their shares</b></figcaption>'
        f'{tables.interaction_table(given, rules)}<p class="note">Above zero: they add to each other. Below: '
        "they do the same work. "
        "Columns are numbered like the rows.</p></figure>"
    )
    lede = (
        "Rules overlap: whoever fires first takes the trade. Alone, lost without it and fair share answer different "
        "questions; all three are in total R."
    )
    return section(
        "attribution",
        "Which rule earned it",
        lede,
        overview.worth_chart(given, rules) + overview.displaced_chart(displaced, rules) + together,
    )


def calibration(result: dict) -> str:
    """Return what the order-flow score predicted beside what came true, or why it was not judged."""
    given = result.get("calibration")
    if not isinstance(given, dict):
        return ""
    bins = [item for item in given.get("bins") or [] if isinstance(item, dict) and plain(item.get("n"))]
    lede, body = text(given.get("sentence") or f"The calibration is {UNKNOWN}."), ""
    if bins:
        lede += (
            " Shares are fitted on earlier sessions and judged on later ones. This is the score of the analysis, not "
            "of a rule; on the diagonal it means what it says."
        )
        table = tables.calibration_table(bins)
        table = f"<figure><figcaption><b>By size of the score</b></figcaption>{table}</figure>"
        body = f'<div class="cards">{figures.calibration(bins)}{table}</div>'
    return section("calibration", "Is the order-flow score a probability?", tables.unknown(lede), body)


def honesty(result: dict, rules: dict[str, dict]) -> str:
    """Return what the numbers do not mean, coverage and exclusions."""
    modelled = (
        "Broker quotes were <b>modelled</b> from the venue’s prices; a real broker widens and lags otherwise."
        if result.get("quotes") == "modelled"
        else "Fills are at recorded broker bid and ask; requotes and rejections are not in them."
    )
    shifts = [
        text(member(rule, "time_shift", "reason")) for rule in rules.values() if member(rule, "time_shift", "reason")
    ]
    notes = [
        (
            "<b>A saved count is not evidence.</b> Where nothing can be predicted, leaving at half the risk still "
            "saves every loser that passes it."
        ),
        (
            "<b>A positive mean ΔR is not evidence either.</b> If entries lose on average, leaving early at random "
            "gains too; hence the excess."
        ),
        (
            f"<b>Coverage is {percent(result.get('coverage'))}.</b> Where a feed was not to be trusted rules stay "
            "silent; those trades are kept as they were."
        ),
        (
            f"<b>Left out:</b> {count(result.get('open_at_end'))} trades the recording ended before. How they would "
            "have ended was not seen and is not guessed."
        ),
        modelled,
        (
            f"<b>Latency is {number(result.get('latency_ms'), 0, ' ms')}</b> from decision to fill. Both arms pay "
            "spread and latency; a tie goes to the baseline."
        ),
        (
            "<b>The stale-quote part</b> comes from a broker quote that trails the venue. It is latency arbitrage, "
            "which brokers refuse; it is not skill."
        ),
        (
            f"<b>Intervals resample {groups(result, rules)} separate groups of trades,</b> not trades, because trades "
            "that overlap share their prices. Few groups: wide intervals, and less sure than they look."
        ),
        "<b>Entries are held fixed.</b> A trader who leaves earlier may enter again; that is not in these numbers.",
        (
            "<b>This is one stretch of the past</b> in the symbols named above. It says nothing certain about the next "
            "one."
        ),
    ]
    notes += [f"<b>Time-shifted flow was not run:</b> {reason}" for reason in dict.fromkeys(shifts)]
    tried = count(result.get("configurations_tried"))
    body = (
        '<ul class="notes">' + "".join(f"<li>{tables.unknown(note)}</li>" for note in notes) + "</ul>"
        f'<div class="tried"><p class="big">{tables.unknown(tried)}</p><p>configurations tried on these data, the '
        "discarded ones too. The more are tried, the better the best looks by luck; read every p-value beside this "
        "number.</p></div>"
    )
    return section("honesty", "What these numbers do not mean", "Read before showing them to anyone.", body)
