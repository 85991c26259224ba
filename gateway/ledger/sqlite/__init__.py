"""The ledger in a file of SQLite: the only modules, beside `gateway.ledger.migration`, that know so."""
