"""Providers: one module a dialect, behind the contract in `base`."""
