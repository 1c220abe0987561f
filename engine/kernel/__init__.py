"""Everything here is compiled and hashed; it imports nothing else of engine."""
