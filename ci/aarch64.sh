#!/usr/bin/env bash
# aarch64: everything compiles for it, and layer 1's tests pass under Debian's qemu-user, where that
# target's std is installed. Installs the emulator and the linker itself.
#
# Left out, each with its reason: all of it qemu's, none of aarch64.
left_out=(
    # qemu-user accepts RLIMIT_AS and RLIMIT_DATA and does nothing: its own memory would count.
    under_a_limit_of_address_space_segments_shrink_and_then_the_error_names_it
    under_a_limit_of_data_chunks_shrink_and_then_the_error_names_it
    # qemu-user 7.2 has mlockall but no mlock2, so that a locked program gets no stack.
    a_guard_that_is_demanded_but_does_not_work_is_a_clear_error
    programs_that_lock_their_memory_get_guards_and_no_gigabyte
)
# Guards: qemu-user takes MADV_GUARD_INSTALL for advice that may be ignored, and has no userfaultfd. The
# probe sees both ("the kernel accepts it, but the guard does not hold"), and the tests run on mprotect.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] && ! rustup target add "$target" 2>/dev/null; then
    echo "skipped: no std for aarch64"
    exit 0
fi
# need COMMAND PACKAGE
need() {
    command -v "$1" >/dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
}
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
skips=()
for test in "${left_out[@]}"; do skips+=(--skip "$test"); done
# Programs under qemu cannot run aarch64 programs, but where binfmt_misc is set up for it: the tests that
# run again as a child do so by this too.
export GEVENT_TEST_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$GEVENT_TEST_RUNNER
unset GEVENT_TEST_ALL_GUARDS
cargo check --target "$target" --all-targets
cargo test --no-fail-fast --target "$target" --lib --test 'greenlet_*' --test auto_traits -- "${skips[@]}"
