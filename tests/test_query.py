"""SQL over a session: exact decimals, times, plain errors, and no way out of the session."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.record.query import run_sql
from engine.record.store import TABLES, Session
from sessions import tiny_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return a session of two symbols whose folder name needs quoting."""
    return Session(tiny_session(tmp_path_factory.mktemp("it's data"), symbols=("BTCUSDT", "ETHUSDT"), steps=30))


def one(session: Session, query: str) -> tuple:
    """Return the only row of a query."""
    _, rows = run_sql(session, query)
    assert len(rows) == 1
    return rows[0]


def test_prices_and_quantities_are_exact_decimals(session: Session) -> None:
    row = session.table("trades").to_pylist()[0]
    price, qty = one(session, f"SELECT price, qty FROM trades WHERE seq = {row['seq']}")
    assert price == row["price_ticks"] * Decimal("0.10") and isinstance(price, Decimal)
    assert qty == row["qty_lots"] * Decimal("0.001")


def test_each_symbol_has_its_own_scale(tmp_path: Path) -> None:
    venue = dict(venue="binance_usdm", price_decimals=8, qty_decimals=3)
    two = [dict(symbol="BTCUSDT", tick_size="0.10", lot_size="0.001", **venue),
           dict(symbol="ETHUSDT", tick_size="0.00000001", lot_size="10", **venue)]

    def edit(rows: dict) -> None:
        first = rows["trades"][0] | {"qty_lots": 7}
        rows["trades"] = [first | {"seq": 10_000, "symbol": "BTCUSDT", "price_ticks": 614_803},
                          first | {"seq": 10_001, "symbol": "ETHUSDT", "price_ticks": 2**62 + 1}]

    session = Session(tiny_session(tmp_path, symbols=("BTCUSDT", "ETHUSDT"), steps=5, edit=edit, instruments=two))
    _, rows = run_sql(session, "SELECT price, qty FROM trades ORDER BY seq")
    assert rows == [(Decimal("61480.3"), Decimal("0.007")), ((2**62 + 1) * Decimal("1e-8"), Decimal(70))]


def test_best_quotes_and_sides_have_decimals(session: Session) -> None:
    names = "bid_price, bid_price_ticks, ask_price, ask_price_ticks"
    bid, bid_ticks, ask, ask_ticks = one(session, f"SELECT {names} FROM best LIMIT 1")
    assert (bid, ask) == (bid_ticks * Decimal("0.1"), ask_ticks * Decimal("0.1"))


def test_times_are_timestamps(session: Session) -> None:
    recv_ns, shown, kind = one(session, "SELECT recv_ns, recv_time, typeof(recv_time) FROM depth ORDER BY seq LIMIT 1")
    assert kind == "TIMESTAMP_NS" and shown == datetime(2024, 8, 9, 0, 0, 0, recv_ns % 10**9 // 1000)


def test_every_table_is_there_also_when_empty(session: Session) -> None:
    for name in TABLES:
        assert one(session, f"SELECT count(*) FROM {name}")[0] == session.table(name).num_rows
    columns, rows = run_sql(session, "SELECT mark_price, funding_rate, next_funding_time FROM marks")
    assert columns == ["mark_price", "funding_rate", "next_funding_time"] and rows == []
    assert run_sql(session, "SELECT symbol FROM instruments ORDER BY 1")[1] == [("BTCUSDT",), ("ETHUSDT",)]


@pytest.mark.parametrize("query, words", [
    ("SELEC 1", ["SELEC"]),
    ("SELECT prise FROM trades", ["prise", "price"]),
    ("SELECT * FROM trade", ["'trade'", "trades"]),
    ("SELECT 1; SELECT 2", ["2 statements"]),
    ("", ["0 statements"]),
    ("SELECT CAST('x' AS INTEGER)", ["x"]),
])
def test_a_wrong_query_is_one_sentence(session: Session, query: str, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        run_sql(session, query)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("query", [
    "COPY trades TO '{out}/stolen.csv'", "COPY trades TO '{own}'", "EXPORT DATABASE '{out}/all'",
    "ATTACH '{out}/other.db'", "INSTALL httpfs", "LOAD httpfs", "SET enable_external_access = true",
    "PRAGMA enable_profiling", "CREATE TABLE t AS SELECT 1",
    "SELECT * FROM read_csv('{secret}')", "SELECT * FROM read_text('{secret}')", "SELECT * FROM '{secret}'",
    "SELECT * FROM glob('{out}/*')", "SELECT * FROM read_parquet('{out}/other.parquet')", "CALL pragma_version()",
])
def test_there_is_no_way_out(session: Session, tmp_path: Path, query: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n", encoding="utf-8")
    own = session.files("trades")[0]
    before = own.read_bytes()
    with pytest.raises(BadInput):
        own_text = own.as_posix().replace("'", "''")
        run_sql(session, query.format(out=tmp_path.as_posix(), own=own_text, secret=secret.as_posix()))
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"] and own.read_bytes() == before


def test_reading_helpers_work(session: Session) -> None:
    assert "price" in [row[0] for row in run_sql(session, "DESCRIBE trades")[1]]
    assert one(session, "WITH t AS (FROM trades) SELECT count(*) FROM t") == (session.table("trades").num_rows,)
