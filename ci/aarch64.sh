#!/usr/bin/env bash
# Layer 1's tests on aarch64, under Debian's qemu-user, where that target's std is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] && ! rustup target add "$target" 2>/dev/null; then
    echo "skipped: no std for aarch64"
    exit 0
fi
install() {
    [ "$(dpkg-query -W -f '${Status}' "$1" 2>/dev/null)" = "install ok installed" ] && return
    apt-get update -qq && apt-get install -y -qq "$1" >/dev/null
}
install qemu-user
install gcc-aarch64-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
cargo test --target "$target" --test 'greenlet_*'
