#!/usr/bin/env bash
# The suite under AddressSanitizer, which corosensei tells of each stack switch (feature `sanitizer`).
#
# Left out, each with its reason; the ordinary run has them all:
#   overflow, fatal signals   the sanitizer has SIGSEGV and SIGBUS handlers and signal stacks of its own
#   limits of address space   the sanitizer's shadow alone is larger than any of them
#   mlockall                  the sanitizer makes it a call that does nothing
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
left_out=(
    --skip overflow --skip a_frame_larger_than_the_stack --skip a_thread_without_a_signal_stack
    --skip under_a_limit_of --skip out_of_address_space --skip a_guard_that_is_demanded_but_does_not_work
)
# leaks: what a killed thread or a subprocess leaves is on purpose; `greenlet_leaks` counts leaks itself.
export ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1"
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes" GEVENT_ASAN=1
cargo test --target "$target" --target-dir target/asan --features sanitizer --lib --tests --examples -- "${left_out[@]}"
