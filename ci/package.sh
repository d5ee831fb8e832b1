#!/usr/bin/env bash
# What would be published builds by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo package --allow-dirty
