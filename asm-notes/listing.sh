#!/usr/bin/env bash
# The switch path as compiled: prints the functions that the notes quote, out of asm-notes/probe.rs.
#
#   asm-notes/listing.sh [x86_64|aarch64] [PART...]      the host's, and every part, if not told
#
# PARTS: yield switch park switch_to drive trampoline first prepare pick cfi
# Long functions are printed whole: what is quoted is the path that is taken when all is well.
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-$(uname -m)}
shift || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(yield switch park switch_to drive trampoline first prepare pick cfi)
target=$arch-unknown-linux-gnu
objdump=objdump options=()
if [ "$arch" = x86_64 ]; then options=(-M intel); fi
if [ "$arch" != "$(uname -m)" ]; then
    # Debian: apt-get install gcc-aarch64-linux-gnu binutils-aarch64-linux-gnu, and rustup target add.
    objdump=$arch-linux-gnu-objdump
    export "CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER=$arch-linux-gnu-gcc"
fi
cargo build --quiet --release --target "$target" --example asm_probe
binary=${CARGO_TARGET_DIR:-target}/$target/release/examples/asm_probe

# The functions whose name, as nm shows it, matches.
functions() {
    nm -C "$binary" | sed -n 's/^[0-9a-f]* [tT] //p' | grep -E "$1" | sort -u | while read -r name; do
        "$objdump" -d -C --no-show-raw-insn "${options[@]}" --disassemble="$name" "$binary" | sed -n '/^[0-9a-f]* </,/^$/p'
    done
}

for part in "${parts[@]}"; do
    echo "==== $arch: $part"
    case $part in
        yield) functions '^asm_probe::probe_yield$' ;;
        switch) functions '^asm_probe::probe_switch$' ;;
        park) functions '^gevent::greenlet::driver::park$' ;;
        switch_to) functions '^gevent::greenlet::driver::switch_to(::.*)?$' ;;
        drive) functions '^gevent::greenlet::driver::drive$' ;;
        trampoline) functions '^stack_init_trampoline$' ;;
        first) functions '::coroutine_func$' ;;
        prepare) functions '^gevent::greenlet::driver::install$' ;;
        pick) functions '^gevent::hub::run::pick$' ;;
        # The unwinding rules of the first frame: those with an expression that reads the parent link.
        cfi) readelf --debug-dump=frames "$binary" 2>/dev/null | grep -B 3 -A 5 'DW_OP_deref; DW_OP_plus_uconst' ;;
        *) echo "no part is called $part" >&2; exit 1 ;;
    esac
done
