#!/usr/bin/env bash
# Bugs planted on purpose, each a patch in tests/planted: `scheduler_proptest` must fail of every one of them, with
# a message of its own (a build that fails, or a process that dies, does not count).
#
# A patch that no longer applies is made anew so: apply it with `git apply --3way` or by hand, look that the bug is
# still the one that its first lines describe, then `(sed '/^diff/Q' OLD; git diff -- src) > tests/planted/NAME.patch`,
# and `git checkout -- src`.
set -euo pipefail
cd "$(dirname "$0")/.."
patches=("$PWD"/tests/planted/*.patch)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/planted"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory="$copy"
cd "$copy"

run() { # says whether the test passes, and leaves its output in $copy/output
    cargo test --quiet --test scheduler_proptest random_programs >output 2>&1
}
if ! run; then
    cat output
    echo "planted nothing: fails all the same"
    exit 1
fi
failed=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    if ! patch --quiet --strip=1 --forward <"$patch"; then
        echo "planted $name: the patch does not apply; see the head of ci/planted.sh"
        exit 1
    fi
    if run; then
        echo "planted $name: NOT caught"
        failed=1
    elif grep -q '^scheduler_proptest: ' output; then
        echo "planted $name: caught"
    else
        cat output
        echo "planted $name: failed, but not by the test's own message"
        failed=1
    fi
    patch --quiet --strip=1 --reverse <"$patch"
done
exit $failed
