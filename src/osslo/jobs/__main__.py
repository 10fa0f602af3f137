"""`python -m osslo.jobs`: the worker process. Its server starts it; nobody else needs to."""

from __future__ import annotations

from osslo.jobs.process import main

main()
