"""The ledger: holds, entries that are never edited, and rollups, written by one thread."""
