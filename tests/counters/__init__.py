"""Tests of the counter stores: one contract for all of them, and what is particular to each."""
