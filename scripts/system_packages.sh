#!/bin/sh
# What tests need beyond Python: PostgreSQL's server, Redis, a browser, valgrind. Installs what is
# missing where apt can, and says what to install elsewhere. Osslo itself needs none of it.
set -eu

missing=""
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 \
    || missing="$missing postgresql"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 || missing="$missing nodejs npm"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v valgrind >/dev/null 2>&1 || missing="$missing valgrind"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "osslo: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 - a list of names
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "osslo: the tests need$missing; install them first" >&2
    exit 1
fi
