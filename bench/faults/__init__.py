"""Fault injection: real servers are killed, suspended and lied to about the time while real
requests run, and every charge is then held against what was really generated.

`python -m bench.faults --help`. `docs/ledger.md` says what each row of the report counts.

    blackbox   what a server notes outside its own memory, and how it is read after its death
    clock      a wall clock that can be set apart for one process (clock.c)
    server     the server's process: the real one, with witnesses at its edges
    fleet      starts, kills, suspends and counts servers; finds the moment of a phase
    people     who calls, and what money they have
    load       requests over HTTP, from a process of their own
    schedule   which fault comes when
    audit      the ledger against the black boxes and what clients were told
"""
