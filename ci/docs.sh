#!/usr/bin/env bash
# The documentation builds without a warning: no dead link, no missing page.
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
