"""Hours out of the usual, found and acted upon: in the background, from the ledger, and at the cost of no call.

1. `gateway.ledger.hourly` sums entries by the hour.
2. `detector` compares an hour with the same creator's and feature's earlier ones (`policies.anomaly` judges) and records
   what is far above them, once.
3. It is told as a notice (`words`), and `actions` does what the creator's plan says: nothing more, slow the creator down
   for a while, or pause the virtual keys that made the excess.
"""
