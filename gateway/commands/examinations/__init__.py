"""What `gateway doctor` looks at, a module an area, in the order of its table.

    configured.py   settings that differ from the defaults, provider keys, files
    reachable.py    the data folder, the database, Redis, the running gateway; providers where that was asked for
    stored.py       what the database says: open holds, keys, months, whose root secret
    priced.py       models without prices, old prices, prices that other lists have otherwise
    risky.py        plans, secrets and addresses that deserve a second look
    parts.py        versions of what it is made of

Each gives findings and changes nothing. None of them ever holds a secret: what has one is told as set or unset.
"""
