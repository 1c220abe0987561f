"""SQL over one session: its tables as read-only DuckDB views, integers also shown as exact decimals and times."""

from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import BadInput, nearest
from engine.instruments import Instrument
from engine.record.store import TABLES, Session

_INTEGER_DIGITS = 19           # of a 64-bit integer
_MOST_DIGITS = 38              # of a DuckDB decimal
_E8 = "0.00000001"


def run_sql(session: Session, query: str) -> tuple[list[str], list[tuple]]:
    """Return the column names and rows one SELECT gives; only the session's own files can be read, nothing written."""
    with duckdb.connect(":memory:") as connection:
        tables = _make_views(connection, session)
        _close_doors(connection, [str(path) for name in tables for path in session.files(name)])
        try:
            statements = connection.extract_statements(query)
            _refuse_all_but_reading(statements)
            cursor = connection.execute(statements[0])
            return [column[0] for column in cursor.description], cursor.fetchall()
        except duckdb.Error as error:
            raise BadInput(f"the query was not understood: {_sentence(error, tables)}") from None


def _refuse_all_but_reading(statements: list) -> None:
    if len(statements) != 1:
        raise BadInput(f"the query holds {len(statements)} statements; give exactly one SELECT")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise BadInput(f"{kind.name} is refused: a session is only read; give a SELECT, DESCRIBE, SUMMARIZE or EXPLAIN")


def _close_doors(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> None:
    """Leave the listed files as the only ones that can be opened, for good."""
    connection.execute(f"SET allowed_paths = [{', '.join(map(_quoted, paths))}]")
    for setting in ("autoinstall_known_extensions", "autoload_known_extensions", "python_enable_replacements",
                    "enable_external_access"):
        connection.execute(f"SET {setting} = false")
    connection.execute("SET lock_configuration = true")


def _make_views(connection: duckdb.DuckDBPyConnection, session: Session) -> list[str]:
    """Make one view per table, present or not, and one of the instruments; return the tables' names."""
    present = {relative.split("/")[0] for relative in session.manifest["files"]}
    names = [*TABLES, *sorted(present - set(TABLES))]
    for name in names:
        files = session.files(name)
        if files:
            schema = pq.read_schema(files[0])
            source = f"read_parquet([{', '.join(_quoted(str(path)) for path in files)}])"
        else:
            schema = TABLES[name]
            plain = [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema]
            connection.register(f"absent_{name}", pa.schema(plain).empty_table())
            source = f"absent_{name}"
        shown = [part for column in schema.names for part in _shown(column, session.instruments)]
        connection.execute(f"CREATE VIEW {_name(name)} AS SELECT {', '.join(shown)} FROM {source}")
    connection.register("instrument_rows", pa.Table.from_pylist([i.as_dict() for i in session.instruments]))
    connection.execute("CREATE VIEW instruments AS SELECT * FROM instrument_rows")
    return names


def _shown(column: str, instruments: list[Instrument]) -> list[str]:
    """Return the SELECT items of a stored column: itself, and its readable form where its name ends in a unit."""
    items = [_name(column)]
    if column.endswith("_ns"):
        items.append(f"make_timestamp_ns({_name(column)}) AS {_name(column[:-3] + '_time')}")
    elif column.endswith("_e8"):
        items.append(_decimal(column, {"": _E8}))
    elif column.endswith("_ticks"):
        items.append(_decimal(column, {i.symbol: i.tick_size for i in instruments}))
    elif column.endswith("_lots"):
        items.append(_decimal(column, {i.symbol: i.lot_size for i in instruments}))
    return items


def _decimal(column: str, steps: dict[str, str]) -> str:
    """Return the exact decimal of an integer column, by the step of each symbol; `""` is the step of all."""
    numbers = {symbol: Decimal(step) for symbol, step in steps.items()}
    scale = max((max(0, -n.normalize().as_tuple().exponent) for n in numbers.values()), default=0)
    width = scale + max((len(str(int(n))) for n in numbers.values()), default=1)
    kind = f"DECIMAL({width}, {scale})"
    cases = {symbol: f"'{number:f}'::{kind}" for symbol, number in numbers.items()}
    if "" in cases or not cases:
        step = cases.get("", f"NULL::{kind}")
    else:
        step = f"CASE symbol {' '.join(f'WHEN {_quoted(symbol)} THEN {text}' for symbol, text in cases.items())} END"
    digits = min(_INTEGER_DIGITS, _MOST_DIGITS - width)
    readable = column.rsplit("_", 1)[0]
    return f"{_name(column)}::DECIMAL({digits}, 0) * {step} AS {_name(readable)}"


def _sentence(error: duckdb.Error, tables: list[str]) -> str:
    """Return DuckDB's message on one line, with the nearest table where a table is unknown."""
    message = str(error).split("\n\nLINE ")[0]
    if isinstance(error, duckdb.CatalogException) and message.startswith("Catalog Error: Table with name "):
        wanted = message.split("Table with name ", 1)[1].split(" does not exist", 1)[0]
        return f"there is no table {wanted!r} ({nearest(wanted, [*tables, 'instruments'])})"
    return "; ".join(line.strip() for line in message.splitlines() if line.strip())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
