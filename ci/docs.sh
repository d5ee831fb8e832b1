#!/usr/bin/env bash
# The documentation builds without a warning: no dead link, no missing page; the private rooms' too, save that a link
# there may spell out what it need not (the public page needs it).
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
RUSTDOCFLAGS="-D warnings -A rustdoc::redundant_explicit_links" cargo doc --no-deps --document-private-items
