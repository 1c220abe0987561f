"""The words for the kernel's numbers, as tables and screens write them."""

ACTIONS = ["hold", "alert", "tighten", "partial", "close"]
RESULTS = ["", "acted", "alerted", "shadowed", "outranked", "busy", "cooling", "useless"]
RULE_MODES = ["off", "alert", "shadow", "act"]
FILL_CODES = ["", "entered", "stopped", "taken", "timed_out", "rule_closed", "rule_reduced", "stop_moved", "rejected",
              "recorded_close", "no_slot"]
