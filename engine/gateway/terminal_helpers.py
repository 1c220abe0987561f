"""Buy, Sell and Close, the Python part of the MetaTrader5 package, as it is: the gateway uses none of them."""

from engine.gateway.terminal_books import BUY


def helpers(module: dict) -> dict:
    """Return Buy, Sell and Close as the package's Python part has them: deviation 10, no filling mode, at most 10 tries."""
    send, quote, position_of = module["order_send"], module["symbol_info_tick"], module["positions_get"]

    def trade(symbol, side, volume, price, comment, ticket):
        for _ in range(10):
            tick = quote(symbol)
            if tick is None:
                return None
            request = {"action": 1, "symbol": symbol, "volume": volume, "type": side, "deviation": 10,
                       "price": price if price is not None else (tick.ask if side == BUY else tick.bid)}
            given = {"comment": comment, "position": ticket}
            result = send(request | {key: value for key, value in given.items() if value is not None})
            if result is None or result.retcode not in (10004, 10021):
                break
        return result

    def Buy(symbol, volume, price=None, *, comment=None, ticket=None):
        return trade(symbol, 0, volume, price, comment, ticket)

    def Sell(symbol, volume, price=None, *, comment=None, ticket=None):
        return trade(symbol, 1, volume, price, comment, ticket)

    def Close(symbol, *, comment=None, ticket=None):
        found = position_of(ticket=ticket) if ticket is not None else position_of(symbol=symbol)
        if found is None:
            return None
        done = [trade(symbol, 1 - row.type, row.volume, None, comment, row.ticket) for row in found]
        if any(result is None for result in done):
            return None
        if all(result.retcode == 10009 for result in done):
            return bool(done)
        return "Partially" if any(result.retcode in (10009, 10010) for result in done) else False
    return {"Buy": Buy, "Sell": Sell, "Close": Close}
