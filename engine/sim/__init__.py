"""Stand-ins for what live trading talks to; nothing that decides imports them."""
