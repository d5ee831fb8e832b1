#!/usr/bin/env bash
# The suite under AddressSanitizer, which corosensei tells of each stack switch (feature `sanitizer`).
#
# Left out, each with its reason; the ordinary run has them all. Other overflows and fatal signals of
# greenlets are in: our handler stands before the sanitizer's, as it stands before std's.
left_out=(
    # Rust has no stack probes with the sanitizer: a frame of 1 MiB steps over the guard.
    a_frame_larger_than_the_stack_is_an_overflow
    # The sanitizer gives each thread a signal stack.
    a_thread_without_a_signal_stack_gets_one
    # The sanitizer reports the overflow of a thread, before std can.
    an_overflow_of_a_thread_is_still_reported_by_std
    # RLIMIT_AS and RLIMIT_DATA: the sanitizer's own shadow counts, and it aborts when it gets none.
    under_a_limit_of_address_space_segments_shrink_and_then_the_error_names_it
    under_a_limit_of_data_chunks_shrink_and_then_the_error_names_it
    without_a_stack_a_connection_is_closed_and_the_server_goes_on
    out_of_address_space
    # A hundred thousand greenlets: the sanitizer's own memory for them is what would be measured.
    a_hundred_thousand_alive_at_once_cost_little
    # mlockall is a call that does nothing here, so no guard is refused.
    a_guard_that_is_demanded_but_does_not_work_is_a_clear_error
    # Frames are several times as large with the sanitizer: the small stack that is filled up overflows.
    a_greenlet_with_little_stack_left_is_not_looked_at_there
    # What was freed stays in memory, in quarantine, so that a use of it is seen.
    the_process_does_not_grow
)
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
skips=()
for test in "${left_out[@]}"; do skips+=(--skip "$test"); done
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# suite USE_AFTER_RETURN WHAT... -- MORE_LEFT_OUT...
# Leaks are not looked for: what a killed thread or a child leaves is on purpose, and `greenlet_leaks`
# counts. A directory of its own: the flags would have everything else built anew.
suite() {
    export ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=$1:abort_on_error=1"
    echo "+ ASAN_OPTIONS=$ASAN_OPTIONS"
    shift
    cargo test --no-fail-fast --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/asan" \
        --features sanitizer "$@" "${skips[@]}" 2>&1 | tee -a "$log"
}

# `tests/examples.rs` runs them.
cargo build --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/asan" --features sanitizer --examples
# Local variables in frames from the heap, so that a use after the return is seen.
suite 1 --lib --tests --
# And layer 1 with its local variables on the greenlets' own stacks, which are poisoned, unwound and used
# again. Frames are three times as large then: too large for the test of deep recursion.
suite 0 --lib --test 'greenlet_*' --test 'regressions*' --test sanitizer -- \
    --skip deep_recursion_switches_from_its_depth --skip a_use_of_a_frame_that_has_returned_is_reported

# It goes on after this one.
if grep -q "ASan is ignoring requested" "$log"; then
    echo "the sanitizer did not know the bounds of a stack" >&2
    exit 1
fi
