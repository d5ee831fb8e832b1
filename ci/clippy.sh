#!/usr/bin/env bash
# Lints: every target, with and without features, warnings denied. `incompatible_msrv` keeps `rust-version` true.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo clippy --all-targets -- -D warnings
cargo clippy --all-targets --all-features -- -D warnings
