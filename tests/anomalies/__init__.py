"""Tests of hours out of the usual: over a real database, with a clock that the test turns."""
