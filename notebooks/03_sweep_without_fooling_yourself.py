import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    import marimo as mo

    mo.md("# A sweep without fooling yourself\n\nForty settings of one rule run in one pass over a market in which **no rule has an edge**. One of them is always best. "
          "What its number is worth is below the heatmap.")
    return (mo,)


@app.cell
def _(mo):
    seed = mo.ui.slider(1, 50, value=11, label="seed of the market")
    seed
    return (seed,)


@app.cell
def _(seed):
    import tempfile
    from pathlib import Path

    from engine.entries import parse_entries, plan_entries
    from engine.measure.market_model import MarketConfig
    from engine.measure.sweep import sweep
    from engine.measure.synthetic import generate
    from engine.record.importer import import_files
    from engine.record.store import Session
    from engine.replay import Plan
    from engine.rules import choose, find_rules
    from engine.run import Settings

    folder = Path(tempfile.mkdtemp())
    made = generate(MarketConfig(seed=seed.value, duration_s=900.0), folder / "market")
    session = Session(import_files([made.capture, made.ticks], folder, name="null")["path"])
    choices = choose(find_rules(), "momentum_reversal:classic", [])
    entries = "every=5s,side=both,sl=8bps,tp=12bps,max=30s"
    trades = plan_entries(parse_entries(entries), session.manifest["first_recv_ns"], session.manifest["last_recv_ns"], "BTCUSD")
    grid = ["momentum_reversal.adverse_pct=0.01:0.10:10", "momentum_reversal.floor_bps=0.5,1,2,4"]
    result = sweep([Plan(session, trades, choices)], choices, grid, Settings(), workers=1, ledger=folder / "ledger.jsonl", trades=entries)
    return (result,)


@app.cell
def _(mo, result):
    import polars as pl

    heat = result["heatmap"]
    table = pl.DataFrame([{heat["y"] or "": name, **{f"{x:g}": value for x, value in zip(heat["x_values"], row)}}
                          for name, row in zip(heat["y_values"] or [""], heat["mean_delta_r"])])
    mo.vstack([mo.md(f"Mean change in R; {heat['x']} across"), table])
    return


@app.cell
def _(mo, result):
    winner = result["winner"]
    fair = "not known" if winner["other_half_r"] is None else f"{winner['other_half_r']:+.3f} R"
    mo.md(f"The best of {result['sets']} sets shows **{winner['mean_delta_r']:+.3f} R**. Chosen on one half of the trades and looked at on the other: "
          f"**{fair}**. Adjusted p {result['adjusted_p']:.3f}; verdict: **{result['verdict']}**.\n\n" + "\n\n".join(result["notes"]))
    return


if __name__ == "__main__":
    app.run()
