"""Tests of `gateway.notices`: what is told once, to whom, and that it arrives."""
