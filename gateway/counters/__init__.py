"""Counters: what has been used and held of every limit, taken atomically."""
