#!/usr/bin/env bash
# Layer 1's tests with each way to guard a stack, so that a fallback is not first tried on a user's kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
for guard in install userfault mprotect; do
    echo "+ GEVENT_STACK_GUARD=$guard"
    GEVENT_STACK_GUARD=$guard cargo test --lib --test 'greenlet_*'
done
