"""The surface of the MetaTrader5 module: constants, record types, array layouts and error texts (package 5.0.6231)."""

import operator

import numpy as np

VERSION = "5.0.6231"

# one group a line: the common prefix, then name=value
_CONSTANTS = """
TIMEFRAME_ M1=1 M2=2 M3=3 M4=4 M5=5 M6=6 M10=10 M12=12 M15=15 M20=20 M30=30 H1=16385 H2=16386 H4=16388 H3=16387
    H6=16390 H8=16392 H12=16396 D1=16408 W1=32769 MN1=49153
COPY_TICKS_ ALL=-1 INFO=1 TRADE=2
TICK_FLAG_ BID=2 ASK=4 LAST=8 VOLUME=16 BUY=32 SELL=64
POSITION_TYPE_ BUY=0 SELL=1
POSITION_REASON_ CLIENT=0 MOBILE=1 WEB=2 EXPERT=3
ORDER_TYPE_ BUY=0 SELL=1 BUY_LIMIT=2 SELL_LIMIT=3 BUY_STOP=4 SELL_STOP=5 BUY_STOP_LIMIT=6 SELL_STOP_LIMIT=7
    CLOSE_BY=8
ORDER_STATE_ STARTED=0 PLACED=1 CANCELED=2 PARTIAL=3 FILLED=4 REJECTED=5 EXPIRED=6 REQUEST_ADD=7 REQUEST_MODIFY=8
    REQUEST_CANCEL=9
ORDER_FILLING_ FOK=0 IOC=1 RETURN=2 BOC=3
ORDER_TIME_ GTC=0 DAY=1 SPECIFIED=2 SPECIFIED_DAY=3
ORDER_REASON_ CLIENT=0 MOBILE=1 WEB=2 EXPERT=3 SL=4 TP=5 SO=6
DEAL_TYPE_ BUY=0 SELL=1 BALANCE=2 CREDIT=3 CHARGE=4 CORRECTION=5 BONUS=6 COMMISSION=7 COMMISSION_DAILY=8
    COMMISSION_MONTHLY=9 COMMISSION_AGENT_DAILY=10 COMMISSION_AGENT_MONTHLY=11 INTEREST=12 BUY_CANCELED=13
    SELL_CANCELED=14
DEAL_ DIVIDEND=15 DIVIDEND_FRANKED=16 TAX=17
DEAL_ENTRY_ IN=0 OUT=1 INOUT=2 OUT_BY=3
DEAL_REASON_ CLIENT=0 MOBILE=1 WEB=2 EXPERT=3 SL=4 TP=5 SO=6 ROLLOVER=7 VMARGIN=8 SPLIT=9
TRADE_ACTION_ DEAL=1 PENDING=5 SLTP=6 MODIFY=7 REMOVE=8 CLOSE_BY=10
SYMBOL_CHART_MODE_ BID=0 LAST=1
SYMBOL_CALC_MODE_ FOREX=0 FUTURES=1 CFD=2 CFDINDEX=3 CFDLEVERAGE=4 FOREX_NO_LEVERAGE=5 EXCH_STOCKS=32
    EXCH_FUTURES=33 EXCH_OPTIONS=34 EXCH_OPTIONS_MARGIN=36 EXCH_BONDS=37 EXCH_STOCKS_MOEX=38 EXCH_BONDS_MOEX=39
    SERV_COLLATERAL=64
SYMBOL_TRADE_MODE_ DISABLED=0 LONGONLY=1 SHORTONLY=2 CLOSEONLY=3 FULL=4
SYMBOL_TRADE_EXECUTION_ REQUEST=0 INSTANT=1 MARKET=2 EXCHANGE=3
SYMBOL_SWAP_MODE_ DISABLED=0 POINTS=1 CURRENCY_SYMBOL=2 CURRENCY_MARGIN=3 CURRENCY_DEPOSIT=4 INTEREST_CURRENT=5
    INTEREST_OPEN=6 REOPEN_CURRENT=7 REOPEN_BID=8
DAY_OF_WEEK_ SUNDAY=0 MONDAY=1 TUESDAY=2 WEDNESDAY=3 THURSDAY=4 FRIDAY=5 SATURDAY=6
SYMBOL_ORDERS_ GTC=0 DAILY=1 DAILY_NO_STOPS=2
SYMBOL_OPTION_RIGHT_ CALL=0 PUT=1
SYMBOL_OPTION_MODE_ EUROPEAN=0 AMERICAN=1
ACCOUNT_TRADE_MODE_ DEMO=0 CONTEST=1 REAL=2
ACCOUNT_STOPOUT_MODE_ PERCENT=0 MONEY=1
ACCOUNT_MARGIN_MODE_ RETAIL_NETTING=0 EXCHANGE=1 RETAIL_HEDGING=2
BOOK_TYPE_ SELL=1 BUY=2 SELL_MARKET=3 BUY_MARKET=4
TRADE_RETCODE_ REQUOTE=10004 REJECT=10006 CANCEL=10007 PLACED=10008 DONE=10009 DONE_PARTIAL=10010 ERROR=10011
    TIMEOUT=10012 INVALID=10013 INVALID_VOLUME=10014 INVALID_PRICE=10015 INVALID_STOPS=10016 TRADE_DISABLED=10017
    MARKET_CLOSED=10018 NO_MONEY=10019 PRICE_CHANGED=10020 PRICE_OFF=10021 INVALID_EXPIRATION=10022
    ORDER_CHANGED=10023 TOO_MANY_REQUESTS=10024 NO_CHANGES=10025 SERVER_DISABLES_AT=10026 CLIENT_DISABLES_AT=10027
    LOCKED=10028 FROZEN=10029 INVALID_FILL=10030 CONNECTION=10031 ONLY_REAL=10032 LIMIT_ORDERS=10033
    LIMIT_VOLUME=10034 INVALID_ORDER=10035 POSITION_CLOSED=10036 INVALID_CLOSE_VOLUME=10038 CLOSE_ORDER_EXIST=10039
    LIMIT_POSITIONS=10040 REJECT_CANCEL=10041 LONG_ONLY=10042 SHORT_ONLY=10043 CLOSE_ONLY=10044 FIFO_CLOSE=10045
RES_ S_OK=1 E_FAIL=-1 E_INVALID_PARAMS=-2 E_NO_MEMORY=-3 E_NOT_FOUND=-4 E_INVALID_VERSION=-5 E_AUTH_FAILED=-6
    E_UNSUPPORTED=-7 E_AUTO_TRADING_DISABLED=-8 E_INTERNAL_FAIL=-10000 E_INTERNAL_FAIL_SEND=-10001
    E_INTERNAL_FAIL_RECEIVE=-10002 E_INTERNAL_FAIL_INIT=-10003 E_INTERNAL_FAIL_CONNECT=-10004
    E_INTERNAL_FAIL_TIMEOUT=-10005
"""

# one record a line: its name, then its fields in order; :f float, :s str, :b bool, nothing int
_RECORDS = """
Tick time bid:f ask:f last:f volume time_msc flags volume_real:f
OrderSendResult retcode deal order volume:f price:f bid:f ask:f comment:s request_id retcode_external request
TradePosition ticket time time_msc time_update time_update_msc type magic identifier reason volume:f price_open:f
    sl:f tp:f price_current:f swap:f profit:f symbol:s comment:s external_id:s
BookInfo type price:f volume volume_dbl:f
AccountInfo login trade_mode leverage limit_orders margin_so_mode trade_allowed:b trade_expert:b margin_mode
    currency_digits fifo_close:b balance:f credit:f profit:f equity:f margin:f margin_free:f margin_level:f
    margin_so_call:f margin_so_so:f margin_initial:f margin_maintenance:f assets:f liabilities:f
    commission_blocked:f name:s server:s currency:s company:s
TradeOrder ticket time_setup time_setup_msc time_done time_done_msc time_expiration type type_time type_filling
    state magic position_id position_by_id reason volume_initial:f volume_current:f price_open:f sl:f tp:f
    price_current:f price_stoplimit:f symbol:s comment:s external_id:s
OrderCheckResult retcode balance:f equity:f profit:f margin:f margin_free:f margin_level:f comment:s request
SymbolInfo custom:b chart_mode select:b visible:b session_deals session_buy_orders session_sell_orders volume
    volumehigh volumelow time digits spread spread_float:b ticks_bookdepth trade_calc_mode trade_mode start_time
    expiration_time trade_stops_level trade_freeze_level trade_exemode swap_mode swap_rollover3days
    margin_hedged_use_leg:b expiration_mode filling_mode order_mode order_gtc_mode option_mode option_right bid:f
    bidhigh:f bidlow:f ask:f askhigh:f asklow:f last:f lasthigh:f lastlow:f volume_real:f volumehigh_real:f
    volumelow_real:f option_strike:f point:f trade_tick_value:f trade_tick_value_profit:f trade_tick_value_loss:f
    trade_tick_size:f trade_contract_size:f trade_accrued_interest:f trade_face_value:f trade_liquidity_rate:f
    volume_min:f volume_max:f volume_step:f volume_limit:f swap_long:f swap_short:f margin_initial:f
    margin_maintenance:f session_volume:f session_turnover:f session_interest:f session_buy_orders_volume:f
    session_sell_orders_volume:f session_open:f session_close:f session_aw:f session_price_settlement:f
    session_price_limit_min:f session_price_limit_max:f margin_hedged:f price_change:f price_volatility:f
    price_theoretical:f price_greeks_delta:f price_greeks_theta:f price_greeks_gamma:f price_greeks_vega:f
    price_greeks_rho:f price_greeks_omega:f price_sensitivity:f basis:s category:s currency_base:s currency_profit:s
    currency_margin:s bank:s description:s exchange:s formula:s isin:s name:s page:s path:s
TerminalInfo community_account:b community_connection:b connected:b dlls_allowed:b trade_allowed:b
    tradeapi_disabled:b email_enabled:b ftp_enabled:b notifications_enabled:b mqid:b build maxbars codepage
    ping_last community_balance:f retransmission:f company:s name:s language:s path:s data_path:s commondata_path:s
TradeDeal ticket order time time_msc type entry magic position_id reason volume:f price:f commission:f swap:f
    profit:f fee:f symbol:s comment:s external_id:s
TradeRequest action magic order symbol:s volume:f price:f stoplimit:f sl:f tp:f deviation type type_filling
    type_time expiration comment:s position position_by
"""

RATES = np.dtype([("time", "<i8"), ("open", "<f8"), ("high", "<f8"), ("low", "<f8"), ("close", "<f8"),
                  ("tick_volume", "<u8"), ("spread", "<i4"), ("real_volume", "<u8")])
TICKS = np.dtype([("time", "<i8"), ("bid", "<f8"), ("ask", "<f8"), ("last", "<f8"), ("volume", "<u8"),
                  ("time_msc", "<i8"), ("flags", "<u4"), ("volume_real", "<f8")])

ERROR_TEXTS = {
    1: "Success", -1: "Terminal: Call failed", -2: "Terminal: Invalid params", -3: "Terminal: Out of memory",
    -4: "Terminal: Not found", -5: "Terminal: Incompatible versions", -6: "Terminal: Authorization failed",
    -7: "Terminal: Unsupported function", -8: "Auto-Trading using Python API disabled in Terminal",
    -10000: "IPC call failed", -10001: "IPC send failed", -10002: "IPC recv failed",
    -10003: "IPC initialize failed, MetaTrader 5 x64 not found", -10004: "No IPC connection", -10005: "IPC timeout",
}

# fields of a request by type, in the order of TradeRequest
REQUEST_INTS = {"action": 32, "magic": 64, "order": 64, "deviation": 64, "type": 32, "type_filling": 32,
                "type_time": 32, "expiration": 63, "position": 64, "position_by": 64}
REQUEST_FLOATS = ("volume", "price", "stoplimit", "sl", "tp")
REQUEST_TEXTS = ("symbol", "comment")
MAX_TEXT_UNITS, MAX_GROUP_UNITS, MAX_SERVER_UNITS, MAX_PATH_UNITS = 29, 1997, 253, 257


class Broken(Exception):
    """A call ends with None and this last_error; `cut`: the pipe is gone too."""

    def __init__(self, code: int, text: str = "", cut: bool = False):
        super().__init__(code)
        self.code, self.text, self.cut = code, text or ERROR_TEXTS[code], cut


def _lines(text: str) -> list[list[str]]:
    """Return the words of each entry; an indented line continues the entry before."""
    entries: list[list[str]] = []
    for line in text.strip("\n").splitlines():
        if line.startswith(" "):
            entries[-1] += line.split()
        else:
            entries.append(line.split())
    return entries


def _constants() -> dict[str, int]:
    pairs = [(prefix, word.partition("=")) for prefix, *words in _lines(_CONSTANTS) for word in words]
    return {prefix + name: int(value) for prefix, (name, _, value) in pairs}


class _Field:
    """A read-only attribute, as of a C struct sequence."""

    def __init__(self, index: int):
        self.get = operator.itemgetter(index)

    def __get__(self, instance, owner=None):
        return self if instance is None else self.get(instance)

    def __set__(self, instance, value):
        raise AttributeError("readonly attribute")


def _record_type(name: str, fields: list[str]) -> type:
    """Return a tuple type with named fields, `_asdict`, and nothing else of a named tuple; it cannot be pickled."""
    names = [field.partition(":")[0] for field in fields]

    def new(cls, values):
        values = tuple(values)
        if len(values) != len(names):
            raise TypeError(f"{name}() takes a {len(names)}-sequence ({len(values)}-sequence given)")
        return tuple.__new__(cls, values)

    def asdict(self):
        return dict(zip(names, self))

    def text(self):
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in zip(names, self))})"
    members = {"__slots__": (), "__new__": new, "__repr__": text, "_asdict": asdict, "__module__": "builtins",
               "n_fields": len(names), "n_sequence_fields": len(names), "n_unnamed_fields": 0}
    return type(name, (tuple,), members | {field: _Field(i) for i, field in enumerate(names)})


CONSTANTS = _constants()
FIELDS = {name: [tuple((field + ":i").split(":")[:2]) for field in fields] for name, *fields in _lines(_RECORDS)}
RECORDS = {name: _record_type(name, fields) for name, *fields in _lines(_RECORDS)}
_EMPTY = {"i": 0, "f": 0.0, "s": "", "b": False}
_DEFAULTS = {name: {field: _EMPTY[kind] for field, kind in fields} for name, fields in FIELDS.items()}


def make(record: str, /, **values):
    """Return a record; a field not given is 0, 0.0, "" or False."""
    row = _DEFAULTS[record] | values
    if len(row) != len(_DEFAULTS[record]):
        raise ValueError(f"{record} has no field {sorted(set(values) - set(_DEFAULTS[record]))}")
    return tuple.__new__(RECORDS[record], row.values())


def units(text: str) -> int:
    """Return the length of a text in UTF-16 units, as the terminal counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def request_fault(request: dict) -> str:
    """Return the first field of a request that has the wrong type or size, "" where none has."""
    for field, _ in FIELDS["TradeRequest"]:
        if field not in request:
            continue
        value = request[field]
        if field in REQUEST_INTS:
            if not isinstance(value, int) or not 0 <= value < 1 << REQUEST_INTS[field]:
                return field
        elif field in REQUEST_FLOATS:
            if not isinstance(value, float):
                return field
        elif not isinstance(value, str) or units(value) > MAX_TEXT_UNITS:
            return field
    return ""
