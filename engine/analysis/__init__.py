"""The market at one moment, for a person and for a model: order flow first, every number with its evidence."""
