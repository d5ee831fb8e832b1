#!/usr/bin/env bash
# The README's own test command, word for word.
set -euo pipefail
cd "$(dirname "$0")/.."
command=$(sed -n '/<!-- tests -->/,/```$/p' README.md | sed -n '/^cargo /p')
[ -n "$command" ] || { echo "README.md names no test command under <!-- tests -->" >&2; exit 1; }
echo "+ $command"
GEVENT_TEST_ALL_GUARDS=1 bash -c "$command"
