"""Accounts: users, sessions, keys, prices, limits, and the ledger.

Services say what may be done and record it in the audit log; repositories hold every query; records
are what crosses to other layers. Nothing here knows HTTP.
"""
