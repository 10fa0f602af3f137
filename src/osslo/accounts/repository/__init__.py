"""Every query of the accounts' tables. The caller owns the transaction, and commits."""
