import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    import marimo as mo

    mo.md("# Trades saved\n\nEvery slider runs the kernel again over the whole session; nothing is looked up in a cache. "
          "Mind what is counted: each setting you look at is one more configuration tried, and the ledger knows.")
    return (mo,)


@app.cell
def _(mo):
    stop_bps = mo.ui.slider(4, 30, value=8, label="stop, bps")
    take_bps = mo.ui.slider(4, 40, value=12, label="take profit, bps")
    latency_ms = mo.ui.slider(0, 2000, value=250, step=50, label="latency, ms")
    adverse_pct = mo.ui.slider(0.01, 0.30, value=0.03, step=0.01, label="momentum_reversal (classic): adverse move, percent")
    mo.vstack([stop_bps, take_bps, latency_ms, adverse_pct])
    return adverse_pct, latency_ms, stop_bps, take_bps


@app.cell
def _():
    import tempfile
    from pathlib import Path

    from engine.demo import market
    from engine.measure.synthetic import generate
    from engine.record.importer import import_files
    from engine.record.store import Session

    folder = Path(tempfile.mkdtemp())
    made = generate(market(7, 10), folder / "market")
    session = Session(import_files([made.capture, made.ticks], folder, name="saved")["path"])
    return folder, session


@app.cell
def _(adverse_pct, folder, latency_ms, session, stop_bps, take_bps):
    from engine.entries import parse_entries, plan_entries
    from engine.measure.measure import Options, measure
    from engine.replay import Plan
    from engine.rules import choose, find_rules
    from engine.run import Settings

    entries = f"every=5s,side=both,sl={stop_bps.value}bps,tp={take_bps.value}bps,max=60s"
    first_ns, last_ns = session.manifest["first_recv_ns"], session.manifest["last_recv_ns"]
    trades = plan_entries(parse_entries(entries), first_ns, last_ns, "BTCUSD")
    choices = choose(find_rules(), "momentum_reversal:classic,whale,void,divergence,tighter_stop",
                     [f"momentum_reversal.adverse_pct={adverse_pct.value}"])
    plan = Plan(session, trades, choices, Settings(latency_ns=int(latency_ms.value * 1e6)))
    result, detail = measure([plan], folder, Options(trades=entries))
    return detail, result


@app.cell
def _(mo, result):
    mo.md("\n\n".join(f"**{name}.** {rule['sentence']}" for name, rule in result["rules"].items()))
    return


@app.cell
def _(detail, mo, result):
    import polars as pl

    rows = pl.DataFrame([{"rule": name, **{key: rule[key] for key in ("fired", "saved", "improved", "neutral", "harmed", "too_late", "not_fired")},
                          "change_r": rule["delta_r"]["mean"], "excess_r": rule["excess_r"]["mean"], "p_holm": rule["excess_r"]["p_holm"]}
                         for name, rule in result["rules"].items()])
    mo.vstack([rows, mo.md(f"{len(detail['trades'])} trades, {result['configurations_tried']} configurations tried so far on these trades.")])
    return


if __name__ == "__main__":
    app.run()
