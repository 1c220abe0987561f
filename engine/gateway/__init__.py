"""The broker side: a gateway that only reduces risk, the process that owns the terminal, and a simulated terminal."""
