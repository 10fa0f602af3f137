#!/bin/sh
# Prints the path of the newest usable Python >= 3.11, or says on stderr what to install and fails.
# Usable means: it can make a virtual environment with pip, and it brings the headers that building
# the kernels needs. A C++ compiler is checked too, since the build comes next.
# `PYTHON=/path/to/python make setup` overrides the search.
set -u

probe='
import importlib.util, os, sys, sysconfig
if sys.version_info < (3, 11) or not getattr(sys, "_is_gil_enabled", lambda: True)():
    sys.exit(1)
missing = []
if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
    missing.append("venv")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    missing.append("dev")
print("%d.%d" % sys.version_info[:2], sys.executable, ",".join(missing) or "complete")
'

compiler=""
for name in "${CXX:-}" c++ g++ clang++; do
    if [ -n "$name" ] && command -v "${name%% *}" >/dev/null 2>&1; then
        compiler="$name"
        break
    fi
done
if [ -z "$compiler" ]; then
    echo "osslo: no C++ compiler found. On Debian or Ubuntu: apt-get install g++" >&2
    exit 1
fi

incomplete=""
for name in "${PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3 /usr/bin/python3 python; do
    [ -n "$name" ] || continue
    found=$("$name" -c "$probe" 2>/dev/null) || continue
    [ -n "$found" ] || continue
    # shellcheck disable=SC2086  # three words: version, path, state
    set -- $found
    if [ "$3" = "complete" ]; then
        echo "$2"
        exit 0
    fi
    [ -n "$incomplete" ] || incomplete="$found"
done

if [ -z "$incomplete" ]; then
    echo "osslo: no Python >= 3.11 found. On Debian 12 or Ubuntu 24.04:" \
        "apt-get install python3 python3-venv python3-dev" >&2
    exit 1
fi
# shellcheck disable=SC2086
set -- $incomplete
packages=""
for part in $(echo "$3" | tr ',' ' '); do
    packages="$packages python$1-$part"
done
echo "osslo: Python $1 ($2) lacks parts that Debian packages apart. Run: apt-get install$packages" >&2
exit 1
