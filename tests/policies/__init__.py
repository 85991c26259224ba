"""Tests of `policies`: tables and properties, no event loop, `now` passed in."""
