"""Rehearsal: what changed plans would have done to the calls of the last days. Reads the ledger, and changes nothing.

1. the calls that were made are read in the order of their admission (`history`);
2. each is put to the policies and to counters in memory twice, on a simulated clock: under the plans as they are, and
   under the changed ones (`stage`), for accounts as they stand today (`callers`);
3. what became of it is summed up and compared (`tallies`, `report`).

The decisions are made by the code that admits calls (`gateway.admission`), not by another one like it.
"""

from gateway.rehearsal.run import DAYS_MAX, Rehearsals, RehearsalWish

__all__ = ["DAYS_MAX", "RehearsalWish", "Rehearsals"]
