import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    import marimo as mo

    mo.md("# A first session\n\nA generated market is imported as a recording would be, checked, and looked at. Change the seed or the length and run again.")
    return (mo,)


@app.cell
def _(mo):
    seed = mo.ui.slider(1, 50, value=3, label="seed")
    minutes = mo.ui.slider(2, 30, value=4, label="minutes")
    mo.hstack([seed, minutes])
    return minutes, seed


@app.cell
def _(minutes, seed):
    import tempfile
    from pathlib import Path

    from engine.demo import market
    from engine.measure.synthetic import generate
    from engine.record.importer import import_files
    from engine.record.store import Session

    folder = Path(tempfile.mkdtemp())
    made = generate(market(seed.value, minutes.value), folder / "market")
    session = Session(import_files([made.capture, made.ticks], folder, name="first")["path"])
    session.manifest["rows"]
    return (session,)


@app.cell
def _(session):
    from engine.record.quality import check_session

    checked = check_session(session)
    {key: checked[key] for key in ("ok", "trade_ids", "book", "clock", "coverage", "problems")}
    return


@app.cell
def _(mo, session):
    import polars as pl

    trades = pl.read_parquet(session.path / "trades" / "*.parquet")
    flow = (trades.with_columns(minute=(pl.col("recv_ns") - pl.col("recv_ns").min()) // 60_000_000_000, signed=pl.col("side") * pl.col("qty_lots"))
            .group_by("minute").agg(trades=pl.len(), lots=pl.col("qty_lots").sum(), net_lots=pl.col("signed").sum()).sort("minute"))
    mo.vstack([mo.md("Trades by minute. `net_lots` is taker buys less taker sells."), flow])
    return


@app.cell
def _(session):
    from engine.record.query import run_sql

    columns, rows = run_sql(session, "select side, count(*) as trades, sum(qty) as quantity from trades group by side order by side")
    [dict(zip(columns, row)) for row in rows]
    return


if __name__ == "__main__":
    app.run()
