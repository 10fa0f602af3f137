"""A server in whose responses nothing follows the first two letters, for tests that kill it:
`python -m tests.api.endless_server DATABASE_URL`. Prints its base URL when it listens.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from osslo.api.app import create_app
from osslo.db.database import Database
from tests.api.conftest import make_stage
from tests.scripted import ByteVocabulary, Gate, Script, serving

BEGINNING = ByteVocabulary().tokens("<|channel|>final<|message|>Os")


def main() -> None:
    stage = make_stage(script=Script((BEGINNING, Gate())))
    services = replace(stage.services, database=Database(sys.argv[1]))
    with serving(create_app(services)) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
