"""What a rule may read of the market: one record, a missing integer is MISSING, a missing real number NaN."""

from .records import record

_SIDE_FIELDS = [
    ("depth_5bps_lots", "f8"), ("depth_10bps_lots", "f8"), ("depth_25bps_lots", "f8"), ("depth_100bps_lots", "f8"),
    # a void: depth missing against what usually rests at that distance, inside recorded depth
    ("void_id", "i8"), ("void_near_bps", "f8"), ("void_far_bps", "f8"), ("void_deficit", "f8"),
    ("void_cost_lots", "f8"), ("void_age_ns", "i8"),
    # thin: the same against the median bin of this side now, no persistence
    ("thin_id", "i8"), ("thin_near_bps", "f8"), ("thin_far_bps", "f8"),
    ("wall_near_bps", "f8"), ("wall_lots", "f8"), ("wall_age_ns", "i8"),
]
# prices the trackers remember between looks
_SIDE_MEMORY = [("void_price", "i8"), ("void_since_ns", "i8"), ("void_count", "i8"), ("thin_price", "i8"), ("thin_count", "i8"),
                ("wall_price", "i8"), ("wall_since_ns", "i8")]
SIDE = record(_SIDE_FIELDS + _SIDE_MEMORY)

MARKET = record([
    ("now_ns", "i8"), ("seq", "i8"), ("kind", "i8"),
    # top of book, the newest of best quote and depth
    ("bid_ticks", "i8"), ("ask_ticks", "i8"), ("bid_lots", "i8"), ("ask_lots", "i8"),
    ("mid2", "i8"),                        # bid + ask: half ticks, whole numbers
    ("last_ticks", "i8"), ("last_side", "i8"),
    # age of each feed at this event, MISSING before its first message
    ("top_ns", "i8"), ("trade_ns", "i8"), ("book_ns", "i8"), ("quote_ns", "i8"),
    ("book_ok", "i8"), ("tape_ok", "i8"), ("mid_ok", "i8"),
    # change of mid over the last n seconds, basis points
    ("move_1s_bps", "f8"), ("move_5s_bps", "f8"), ("move_10s_bps", "f8"), ("move_30s_bps", "f8"), ("move_60s_bps", "f8"),
    ("sigma_bps", "f8"),                   # realised volatility per square root of a second, last 600 s less the last 10
    # (taker buys - sells) / both, by quantity
    ("imbalance_10s", "f8"), ("imbalance_30s", "f8"), ("imbalance_180s", "f8"), ("imbalance_600s", "f8"), ("imbalance_3600s", "f8"),
    ("trades_10s", "i8"), ("trades_30s", "i8"),
    ("volume_ratio", "f8"),                # traded quantity per second, last 10 s over last 180 s
    ("flow_10s_lots", "i8"), ("flow_30s_lots", "i8"),   # taker buys - sells
    ("ofi_10s", "f8"),                     # order-flow imbalance of the best quotes, sum / sum of magnitudes
    ("cvd_lots", "i8"),                    # since the tape was last whole
    ("top5_imbalance", "f8"),              # (bid - ask) / both over five levels
    ("big_buys_60s", "i8"), ("big_sells_60s", "i8"),    # prints of the medium tier and above
    ("cluster_buy_usd", "f8"), ("cluster_sell_usd", "f8"),   # their value over 30 s
    # the last sweep of the large tier or above: same taker side, same instant, adjacent ids
    ("whale_id", "i8"), ("whale_side", "i8"), ("whale_usd", "f8"), ("whale_ns", "i8"), ("whale_ticks", "i8"),
    ("whale_trade_id", "i8"), ("whale_print_usd", "f8"), ("whale_usd_per_lot", "f8"),
    ("whale_usual_usd", "f8"),             # 0.999 quantile of past sweeps
    ("whale_prints", "i8"), ("whale_sweeps", "i8"), ("whale_largest_usd", "f8"),
    # divergence
    ("high_10s_2", "i8"), ("high_20s_2", "i8"), ("low_10s_2", "i8"), ("low_20s_2", "i8"),   # of the last 10 s and the 10 s before
    ("move_recent_bps", "f8"), ("move_older_bps", "f8"),
    ("z_move_30s", "f8"), ("z_flow_30s", "f8"), ("z_residual_30s", "f8"),
    # broker against venue
    ("basis_bps", "f8"), ("basis_mad_bps", "f8"), ("basis_ok", "i8"),
    ("quote_bid_ticks", "i8"), ("quote_ask_ticks", "i8"),
    ("bid", SIDE), ("ask", SIDE),
])

POSITION = record([
    ("ticket", "i8"), ("side", "i8"), ("status", "i8"), ("symbol", "i8"),
    ("open_ns", "i8"), ("age_ns", "i8"), ("entry_ticks", "i8"),
    ("volume", "i8"), ("initial_volume", "i8"),          # volume steps
    ("stop_ticks", "i8"), ("take_ticks", "i8"), ("initial_stop_ticks", "i8"), ("risk_ticks", "i8"),
    ("exit_ticks", "i8"), ("spread_ticks", "i8"), ("quote_ns", "i8"),
    ("gain_ticks", "i8"), ("peak_ticks", "i8"), ("trough_ticks", "i8"), ("peak_ns", "i8"),
    ("gain_r", "f8"), ("peak_r", "f8"), ("gain_bps", "f8"),
    ("stop_rel", "i8"), ("take_rel", "i8"), ("hold_ns", "i8"), ("deadline_ns", "i8"), ("recorded", "i8"),
    # the order in flight: what, when it may fill, and what it asks
    ("order", "i8"), ("order_due_ns", "i8"), ("order_stop_ticks", "i8"), ("order_volume", "i8"), ("order_rule", "i8"),
    ("order_decided_ns", "i8"), ("acted_ns", "i8"),
    ("refused", "i8"), ("refused_ns", "i8"),   # the action the broker last refused, HOLD for none, and when
    ("voted", "i8"),           # rules that voted at the event before, one bit each
])

N_EVIDENCE = 8
DECISION = record([
    ("seq", "i8"), ("recv_ns", "i8"), ("ticket", "i8"), ("variant", "i4"), ("symbol", "i4"),
    ("rule", "i2"), ("action", "i2"), ("mode", "i2"), ("result", "i2"), ("votes", "i8"), ("occasion", "i8"),
    ("bid_ticks", "i8"), ("ask_ticks", "i8"), ("venue_mid2", "i8"), ("stop_ticks", "i8"), ("volume_left", "i8"),
    ("gain_r", "f8"), ("age_ns", "i8"),
] + [(f"evidence_{i}", "f8") for i in range(N_EVIDENCE)])

FILL = record([
    ("seq", "i8"), ("recv_ns", "i8"), ("ticket", "i8"), ("variant", "i4"), ("symbol", "i4"),
    ("code", "i4"), ("rule", "i4"), ("side", "i8"), ("price_ticks", "i8"), ("volume", "i8"), ("volume_left", "i8"),
    ("stop_ticks", "i8"), ("entry_ticks", "i8"), ("risk_ticks", "i8"), ("decided_ns", "i8"),
    ("peak_ticks", "i8"), ("trough_ticks", "i8"), ("spread_ticks", "i8"),
    ("exit_ticks", "i8"), ("take_ticks", "i8"), ("initial_stop_ticks", "i8"), ("open_ns", "i8"), ("deadline_ns", "i8"),
])
