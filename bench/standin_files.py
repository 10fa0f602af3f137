"""Makes the stand-in and finds the GGUF it was made from; prints both paths as one JSON line.

usage: standin_files.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from osslo.model.standin import ensure_standin, fetch_base


def main() -> None:
    """Fetch, build, print."""
    folder = Path(sys.argv[1])
    base = fetch_base(folder)
    sys.stdout.write(json.dumps({"base": str(base), "model": str(ensure_standin(folder))}) + "\n")


if __name__ == "__main__":
    main()
