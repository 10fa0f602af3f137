"""The exact ledger: balances, reservations, usage, and the one writer that changes them.

`charging` is what serving calls; `service` is what people and payment systems call; `usage` reads.
`writer` commits what both ask for, many at a time; `book` holds the rules of money and no SQL;
`journal` holds the SQL of a commit and no rules; `sweeper` ends what a dead process left open.
"""
