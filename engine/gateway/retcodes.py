"""What each trade return code means for an exit: its class, and the words for the user."""

from typing import NamedTuple

OK, FRESH, WAIT, ASK, FIX, STOP, PART, FOLLOW, NEXT_FILLING, GONE = (
    "ok", "fresh", "wait", "ask", "fix", "stop", "part", "follow", "next filling", "gone")


class Code(NamedTuple):
    """One return code: the class decides, `most` is how often it may be met in one action."""

    name: str
    kind: str
    most: int
    wait_s: float
    mend: str = ""


CODES = {
    10004: Code("REQUOTE", FRESH, 3, 0.0, "the price moved; asked again at the new one"),
    10006: Code("REJECT", FRESH, 1, 0.5, "the broker rejected the request; ask the broker why"),
    10007: Code("CANCEL", STOP, 0, 0.0, "a dealer or trader cancelled the request; look at the terminal's journal"),
    10008: Code("PLACED", FOLLOW, 0, 0.0, "accepted, not executed yet"),
    10009: Code("DONE", OK, 0, 0.0),
    10010: Code("DONE_PARTIAL", PART, 5, 0.0, "filled in part; the rest was sent"),
    10011: Code("ERROR", ASK, 0, 0.0, "the server does not say what became of the request"),
    10012: Code("TIMEOUT", ASK, 0, 0.0, "the server does not say what became of the request"),
    10013: Code("INVALID", FIX, 1, 0.2, "the server finds the request invalid; the position may be gone"),
    10014: Code("INVALID_VOLUME", FIX, 1, 0.0, "the volume does not fit the symbol's step or limits"),
    10015: Code("INVALID_PRICE", FRESH, 1, 0.0, "the price did not fit; asked again"),
    10016: Code("INVALID_STOPS", FIX, 1, 0.2, "the stop is too near the price for this symbol"),
    10017: Code("TRADE_DISABLED", STOP, 0, 0.0, "trading this symbol is disabled; ask the broker"),
    10018: Code("MARKET_CLOSED", WAIT, 1, 5.0, "the market is closed; the broker-side stop stays"),
    10019: Code("NO_MONEY", STOP, 0, 0.0, "not enough money; an exit should not need any, look at the account"),
    10020: Code("PRICE_CHANGED", FRESH, 3, 0.0, "the price moved; asked again at the new one"),
    10021: Code("PRICE_OFF", WAIT, 3, 0.5, "there are no quotes; wait for the market"),
    10022: Code("INVALID_EXPIRATION", STOP, 0, 0.0, "a fault of this program: please report it"),
    10023: Code("ORDER_CHANGED", FRESH, 2, 0.2, "the state changed meanwhile; read again"),
    10024: Code("TOO_MANY_REQUESTS", WAIT, 3, 1.0, "too many requests; lower the limit of actions per minute"),
    10025: Code("NO_CHANGES", OK, 0, 0.0),
    10026: Code("SERVER_DISABLES_AT", STOP, 0, 0.0, "the broker does not allow automated trading on this account; ask the broker"),
    10027: Code("CLIENT_DISABLES_AT", STOP, 0, 0.0, "switch on Algo Trading in the terminal, and allow the Python API in its options"),
    10028: Code("LOCKED", ASK, 2, 0.5, "an earlier request is being processed"),
    10029: Code("FROZEN", WAIT, 3, 1.0, "the price is inside the freeze level of the stop or take profit; the broker-side level stays"),
    10030: Code("INVALID_FILL", NEXT_FILLING, 3, 0.0, "the symbol takes none of the filling modes"),
    10031: Code("CONNECTION", ASK, 0, 0.0, "the terminal has no link to the broker"),
    10032: Code("ONLY_REAL", STOP, 0, 0.0, "allowed on real accounts only"),
    10033: Code("LIMIT_ORDERS", STOP, 0, 0.0, "the account's limit of orders is reached"),
    10034: Code("LIMIT_VOLUME", STOP, 0, 0.0, "the symbol's limit of volume is reached"),
    10035: Code("INVALID_ORDER", GONE, 1, 0.2, "the order or position is not known to the server"),
    10036: Code("POSITION_CLOSED", GONE, 0, 0.0, "the position was closed already"),
    10038: Code("INVALID_CLOSE_VOLUME", FIX, 2, 0.2, "the position is smaller than it was; read again"),
    10039: Code("CLOSE_ORDER_EXIST", ASK, 2, 0.5, "another close of this position is on its way"),
    10040: Code("LIMIT_POSITIONS", STOP, 0, 0.0, "not expected for an exit; look at the terminal"),
    10041: Code("REJECT_CANCEL", STOP, 0, 0.0, "not expected for an exit; look at the terminal"),
    10042: Code("LONG_ONLY", STOP, 0, 0.0, "not expected for an exit; look at the terminal"),
    10043: Code("SHORT_ONLY", STOP, 0, 0.0, "not expected for an exit; look at the terminal"),
    10044: Code("CLOSE_ONLY", STOP, 0, 0.0, "only closing is allowed, and the server took this for an opening; look at the terminal"),
    10045: Code("FIFO_CLOSE", STOP, 0, 0.0, "this account must close its oldest position first; close that one first"),
    10046: Code("HEDGE_PROHIBITED", STOP, 0, 0.0, "the server took the exit for a hedge; look at the terminal"),
}
# last_error of an order_send that returned None
NOT_SENT = {
    -2: Code("BAD_REQUEST", STOP, 0, 0.0, "a fault of this program: please report it"),
    -4: Code("NOT_FOUND", STOP, 0, 0.0, "the terminal does not know the symbol; select it in Market Watch"),
    -5: Code("VERSION", STOP, 0, 0.0, "the terminal and the Python package do not fit; update both"),
    -7: Code("UNSUPPORTED", STOP, 0, 0.0, "the terminal does not support this call; update it"),
    -8: Code("API_DISABLED", STOP, 0, 0.0, "allow the external Python API in the terminal's options, Expert Advisors"),
    -10003: Code("NO_TERMINAL", FRESH, 2, 0.5, "the terminal is not running; start it and log in"),
    -10004: Code("NO_PIPE", FRESH, 2, 0.5, "the link to the terminal was lost; it is opened again"),
}
UNKNOWN = Code("UNKNOWN", ASK, 0, 0.0, "what became of the request is not known")


def classify(retcode: int | None, error: int) -> Code:
    """Return the class of an answer; what is in neither table counts as unknown, never as done or not sent."""
    if retcode is None:
        return NOT_SENT.get(error, UNKNOWN)
    return CODES.get(retcode, UNKNOWN)
