"""tapeguard: record, replay, measure and act on order-flow exits through one event loop."""
