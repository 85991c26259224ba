"""Real Python clients against a running gateway.

`scenarios_*.py` run inside a client's own environment, and know of the gateway only what its users know: a base URL and a key.
The tests beside this folder start the gateway and the upstream, have scenarios played, and look at all three sides: what the
client made of the answer, what reached the upstream, and what the ledger says.
"""
