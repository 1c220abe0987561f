"""The terminal's Trade History Report: both formats, its traps, and what is refused."""

import io
import re
import warnings
import zipfile
from datetime import datetime

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.sources.history import load_trades, read_history_report
from engine.trades import TradePlan, read_trades_csv, utc_text, write_trades_csv

OFFSET_S = 7200
COLUMNS = ["Time", "Position", "Symbol", "Type", "Volume", "Price", "S / L", "T / P", "Time", "Price",
           "Commission", "Swap", "Profit"]
NBSP = "\u00a0"
POSITIONS = [
    ["2026.03.07 11:30:00", "1003", "BTCUSD", "sell", "0.05 / 0.10", f"68{NBSP}100.00", "68 300.00", "",
     "2026.03.07 12:00:00", "68 050.10", "-1.00", "0.00", "2.50"],
    ["2026.03.07 11:03:42", "1001", "XAUUSD", "buy", "0.04", f"4{NBSP}106.170", f"4{NBSP}100.000", "4\u202f120.5",
     "2026.03.07 11:05:01", f"4{NBSP}101.093", "0.00", "0.00", "- 2.50"],
    ["2026.03.07 11:03:42", "1000", "EURUSD", "buy", "1", "1.08350", "1.08400", "0.00000",
     "2026.03.07 11:03:42", "1.08420", "-7.00", "-0.30", "70.00"],
    ["2026.03.07 11:00:00", "999", "", "balance", "", "", "", "", "", "", "", "", "10 000.00"],
]
ORDER_COLUMNS = ["Open Time", "Order", *COLUMNS[2:9], "State", "", "Comment"]
ORDERS = [["2026.03.07 11:03:42", "1001", "XAUUSD", "buy", "0.04 / 0.04", "market", "", "", "2026.03.07 11:03:42",
           "filled", "", ""]]
DEAL_COLUMNS = ["Time", "Deal", "Symbol", "Type", "Direction", "Volume", "Price", "Order", "Commission", "Fee", "Swap",
                "Profit", "Balance", "Comment"]
DEALS = [["2026.03.07 09:00:00", "1", "", "balance", "", "", "", "", "", "", "", "10 000.00", "10 000.00", "deposit"]]
TITLES = ("Trade History Report", "Positions", "Orders", "Deals", "Results")


def html(positions=POSITIONS, header=COLUMNS, titles=TITLES, hidden_header=False):
    """Write a page as the terminal lays it out: one table, headings across it, a hidden cell in data rows only."""
    def heading(text):
        return f'<tr align="center"><th colspan="14"><div style="font: 10pt Tahoma"><b>{text}</b></div></th></tr>'

    def row(cells, hidden):
        cells = [f"<td>{cell.replace(NBSP, '&nbsp;')}</td>" for cell in cells]
        if hidden:
            cells.insert(4, '<td class="hidden" colspan="8">remark 5.5</td>')
        cells[-1] = cells[-1].replace("<td>", '<td colspan="2">')
        return '<tr bgcolor="#F7F7F7" align="right">\n' + "\n".join(cells) + "\n</tr>"

    spacer = '<tr><td colspan="14" style="height: 10px"></td></tr>'
    return "\n".join([
        '<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01 Transitional//EN" "http://www.w3.org/TR/html4/loose.dtd">',
        "<html><head><title>5: Trade History Report</title><style>td.hidden {display: none}</style></head>",
        "<body><table>",
        heading(titles[0]),
        '<tr align="left"><th colspan="4">Name:</th><th colspan="10"><b>A. Trader</b></th></tr>', spacer,
        heading(titles[1]), row([f"<b>{name}</b>" for name in header], hidden_header),
        *(row(cells, True) for cells in positions),
        '<tr align="right"><td colspan="10"></td><td>-8.00</td><td>-0.30</td><td colspan="2">70.00</td></tr>', spacer,
        heading(titles[2]), row(ORDER_COLUMNS, False), *(row(cells, True) for cells in ORDERS),
        heading(titles[3]), row(DEAL_COLUMNS, False), *(row(cells, True) for cells in DEALS),
        heading(titles[4]), "<tr><td colspan=3>Balance:</td><td colspan=2><b>10 067.50</b></td></tr>",
        "</table></body></html>"])


def workbook(path, positions, title="Positions"):
    book = openpyxl.Workbook()
    sheet = book.active
    for row in ([["Trade History Report"], ["Name:", None, None, "A. Trader"], [], [title], COLUMNS, *positions,
                 [*[None] * 10, -8.0, -0.3, 70.0], ["Orders"], ["Open Time", "Order"], *ORDERS, ["Deals"], *DEALS]):
        sheet.append(row)
    sheet.merge_cells("A1:M1")
    book.save(path)
    return path


def saved(tmp_path, text, encoding="utf-16", name="ReportHistory-5.html"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def typed(cells):
    """Return a row as a spreadsheet holds it: numbers as numbers, times as text, empty cells absent."""
    def value(column, cell):
        plain = re.sub(r"\s", "", cell)
        if column == 1:
            return int(cell)
        return float(plain) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", plain) else cell or None

    return [value(column, cell) for column, cell in enumerate(cells)]


EXPECTED = [
    ("1000", "EURUSD", 1, "1", "1.08350", None, None, "2026-03-07T09:03:42Z", "2026-03-07T09:03:42Z", "1.08420"),
    ("1001", "XAUUSD", 1, "0.04", "4106.170", "4100.000", "4120.5", "2026-03-07T09:03:42Z", "2026-03-07T09:05:01Z",
     "4101.093"),
    ("1003", "BTCUSD", -1, "0.05", "68100.00", "68300.00", None, "2026-03-07T09:30:00Z", "2026-03-07T10:00:00Z",
     "68050.10")]


def facts(plan: TradePlan):
    return (str(plan.ticket), plan.symbol, plan.side, plan.volume, plan.price, plan.sl, plan.tp, utc_text(plan.open_ns),
            utc_text(plan.close_ns), plan.close_price)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("hidden_header", [False, True])
def test_html_gives_exact_positions_in_utc(tmp_path, encoding, hidden_header):
    read = read_history_report(saved(tmp_path, html(hidden_header=hidden_header), encoding), OFFSET_S)
    assert [facts(plan) for plan in read] == EXPECTED
    assert all((plan.sl_bps, plan.tp_bps, plan.max_hold_ns) == (None,) * 3 for plan in read)


def test_a_stop_moved_past_the_entry_is_unknown_not_initial(tmp_path):
    moved = next(row for row in POSITIONS if row[1] == "1000")
    assert float(moved[6]) > float(moved[5]), "the sample has a long with its last stop above the entry"
    assert read_history_report(saved(tmp_path, html()), OFFSET_S)[0].sl is None


@pytest.mark.parametrize("offset_s, opened", [(0, "2026-03-07T11:03:42Z"), (10800, "2026-03-07T08:03:42Z"),
                                              (-18000, "2026-03-07T16:03:42Z")])
def test_the_server_clock_is_taken_off(tmp_path, offset_s, opened):
    assert utc_text(read_history_report(saved(tmp_path, html()), offset_s)[0].open_ns) == opened


@pytest.mark.parametrize("rows", [POSITIONS, [typed(row) for row in POSITIONS]], ids=["text", "numbers"])
def test_xlsx_gives_the_positions_the_page_gives(tmp_path, rows):
    read = read_history_report(workbook(tmp_path / "ReportHistory-5.xlsx", rows), OFFSET_S)
    for plan, expected in zip(read, EXPECTED, strict=True):
        for got, wanted in zip(facts(plan), expected, strict=True):
            # a cell holding a number has lost its trailing zeros
            assert got == wanted or float(got) == float(wanted)


def test_xlsx_without_styles_or_dimension_and_with_true_dates_is_read_without_a_warning(tmp_path):
    rows = [typed(row) for row in POSITIONS[:1]]
    rows[0][0] = datetime(2026, 3, 7, 11, 30)
    source, path = workbook(tmp_path / "source.xlsx", rows), tmp_path / "bare.xlsx"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            body = old.read(name)
            if name == "xl/styles.xml":
                body, replaced = re.subn(rb"<cellStyles.*</cellStyles>", b"", body)
                assert replaced == 1
            if name == "xl/worksheets/sheet1.xml":
                body, replaced = re.subn(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', body)
                assert replaced == 1
            new.writestr(name, body)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_history_report(path, OFFSET_S)
    assert [(plan.ticket, utc_text(plan.open_ns)) for plan in read] == [(1003, "2026-03-07T09:30:00Z")]


@pytest.mark.parametrize("column, text, said", [
    (0, "2026-03-07 11:30:00", "time '2026-03-07 11:30:00' is no server time"),
    (0, "2026.13.07 11:30:00", "time '2026.13.07 11:30:00' is no server time .month"),
    (1, "10O3", "position '10O3' is no ticket"),
    (4, "lots", "volume 'lots' is no number"),
    (4, "0.00", "volume 0.00 is not above 0"),
    (5, "68,100.00", "price '68,100.00' is no number"),
    (5, "6 8100.00", "price '6 8100.00' is no number"),
    (5, "", "price '' is no number"),
    (6, "n/a", "s/l 'n/a' is no number"),
    (8, "", "close time '' is no server time"),
    (8, "2026.03.07 11:29:59", "close_time 2026-03-07T09:29:59Z is before open_time 2026-03-07T09:30:00Z"),
    (9, "-", "close price '-' is no number"),
    (1, "1001", "position 1001 is already in line"),
])
def test_a_wrong_value_is_named_with_its_place(tmp_path, column, text, said):
    wrong = [*POSITIONS[0][:column], text, *POSITIONS[0][column + 1:]]
    page = html([POSITIONS[1], wrong])
    line = page[:page.index("<tr", page.index("2026.03.07 11:05:01"))].count("\n") + 1
    with pytest.raises(BadInput, match=f"ReportHistory-5.html, line {line}: {said}"):
        read_history_report(saved(tmp_path, page), OFFSET_S)
    with pytest.raises(BadInput, match=f"5.xlsx, row 7: {said.replace('line', 'row')}"):
        read_history_report(workbook(tmp_path / "5.xlsx", [POSITIONS[1], wrong]), OFFSET_S)


GERMAN = ["Zeit", "Position", "Symbol", "Typ", "Volumen", "Preis", "S / L", "T / P", "Zeit", "Preis", "Kommission",
          "Swap", "Profit"]


@pytest.mark.parametrize("page, said", [
    (html(header=GERMAN, titles=("Bericht", "Positionen", "Orders", "Deals", "Ergebnisse")),
     "no section Positions; its headings are 'Bericht', 'Positionen', .* set the terminal's language to English"),
    (html(header=GERMAN),
     "header of Positions has no time, type, volume, price, close time, close price, it is 'Zeit, Position"),
    (html(header=[name for name in COLUMNS if name != "S / L"]), "header of Positions has no s/l, it is"),
    (html([], titles=("Strategy Tester Report", "Settings", *TITLES[2:])), "is a Strategy Tester report"),
    ("<html><table><tr><td colspan=13><b>Closed Transactions:</b></td></tr></table>", "is a MetaTrader 4 statement"),
    ("<html><body>404</body></html>", "it is no Trade History Report; in the terminal's History tab choose Report"),
    ("<table><tr><th>Positions</th></tr></table>", "nothing follows the heading Positions"),
    ("ticket,symbol\n1,2\n", "starts with .*: neither HTML nor XLSX"),
    ("%PDF-1.7", "neither HTML nor XLSX"),
])
def test_another_page_is_refused_with_what_would_be_right(tmp_path, page, said):
    with pytest.raises(BadInput, match=said):
        read_history_report(saved(tmp_path, page, "utf-8"), OFFSET_S)


def test_a_page_cut_anywhere_in_its_table_is_refused(tmp_path):
    page = html()
    ends = page.index("</table>")
    for cut in [*range(page.index("Positions"), ends, 97), ends]:
        with pytest.raises(BadInput, match="line .* ends inside a table, so it was cut short"):
            read_history_report(saved(tmp_path, page[:cut], "utf-8"), OFFSET_S)
    with pytest.raises(BadInput, match="not UTF-16 text; the file is cut short"):
        path = tmp_path / "odd.html"
        path.write_bytes(page.encode("utf-16")[:-101])
        read_history_report(path, OFFSET_S)


def test_a_damaged_workbook_is_refused(tmp_path):
    whole = workbook(tmp_path / "whole.xlsx", POSITIONS).read_bytes()
    path = tmp_path / "part.xlsx"
    for raw in (whole[:len(whole) // 2], whole[:4], b"PK\x03\x04" + b"\0" * 100, b"\xd0\xcf\x11\xe0 old"):
        path.write_bytes(raw)
        with pytest.raises(BadInput, match="part.xlsx is (a damaged workbook|an old or password-protected Excel file)"):
            read_history_report(path, OFFSET_S)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "no workbook")
    path.write_bytes(other.getvalue())
    with pytest.raises(BadInput, match="part.xlsx is a damaged workbook or none"):
        read_history_report(path, OFFSET_S)
    with pytest.raises(BadInput, match="headings are .*'Positionen'.* language to English"):
        read_history_report(workbook(tmp_path / "de.xlsx", POSITIONS, title="Positionen"), OFFSET_S)


def test_an_offset_that_is_no_clock_is_refused(tmp_path):
    with pytest.raises(BadInput, match="server offset 7200000 s is no clock's; seconds from -50400 to 50400"):
        read_history_report(saved(tmp_path, html()), 7_200_000)


def test_load_tells_the_formats_apart_by_content_and_they_agree(tmp_path):
    page = saved(tmp_path, html(), name="a.csv")
    book = workbook(tmp_path / "b.html", POSITIONS)
    read = read_history_report(page, OFFSET_S)
    table = tmp_path / "c.xlsx"
    write_trades_csv(table, read)
    assert [load_trades(path, OFFSET_S) for path in (page, book, table)] == [read] * 3
    assert read_trades_csv(table) == read


def test_no_trades_at_all_is_said(tmp_path):
    assert read_history_report(saved(tmp_path, html([])), OFFSET_S) == []
    with pytest.raises(BadInput, match="holds no trades"):
        load_trades(saved(tmp_path, html([])), OFFSET_S)
    with pytest.raises(BadInput, match="cannot be read"):
        load_trades(tmp_path / "none.html", OFFSET_S)


PAGE = html().encode()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(PAGE) - 1), st.binary(max_size=4), st.integers(0, 40))
def test_any_damage_to_a_page_is_read_or_refused_in_one_sentence(tmp_path_factory, at, put, removed):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(PAGE[:at] + put + PAGE[at + removed:])
    try:
        load_trades(path, OFFSET_S)
    except BadInput as refused:
        assert str(path) in str(refused) and "\n" not in str(refused)


@pytest.fixture(scope="module")
def book_bytes(tmp_path_factory):
    return workbook(tmp_path_factory.mktemp("whole") / "whole.xlsx", POSITIONS[:1]).read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.binary(max_size=4), st.integers(0, 30))
def test_any_damage_to_a_workbook_is_read_or_refused_in_one_sentence(book_bytes, tmp_path_factory, at, put, removed):
    at = 4 + at % (len(book_bytes) - 4)  # the size differs from run to run: a workbook holds the time it was made
    path = tmp_path_factory.mktemp("book") / "report.xlsx"
    path.write_bytes(book_bytes[:at] + put + book_bytes[at + removed:])
    try:
        load_trades(path, OFFSET_S)
    except BadInput as refused:
        assert str(path) in str(refused) and "\n" not in str(refused)
