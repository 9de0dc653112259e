#!/usr/bin/env bash
# Everything that must pass, on a Debian 12 with only a Rust toolchain: see --help.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
# shellcheck source=contrib/lib/common.sh
. contrib/lib/common.sh

usage() {
    cat <<'TEXT'
Usage: contrib/test.sh [--fast]

Installs what is missing (Debian packages), then runs every check: format, lints with warnings as errors, unit and
integration tests, model tests, documentation. The last line is "N passed, N failed".

  --fast     without the model tests
  --help     this text

Environment: HOWDAH_PG_BIN, the folder of PostgreSQL's server programs, if not /usr/lib/postgresql/*/bin.
TEXT
}

fast=''
for option; do
    case $option in
    --fast) fast=1 ;;
    --help | -h) usage && exit 0 ;;
    *) die "unknown option: $option (see --help)" ;;
    esac
done

find_cargo
need_packages gcc libc6-dev pkg-config libssl-dev postgresql-15 postgresql-client-15 procps util-linux coreutils
# A toolchain of rustup's minimal profile has neither.
for component in rustfmt clippy; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 && continue
    command -v rustup >/dev/null || die "missing tool: cargo ${component/rust/}"
    say "Rust component to install: $component"
    rustup component add --quiet "$component" || die "rustup could not install $component"
done

passed=0 failed=0 failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# check NAME COMMAND…: one step that passes or fails as a whole.
check() {
    local name=$1 begin=$SECONDS
    shift
    say "$name"
    if "$@"; then
        passed=$((passed + 1))
        say "$name: passed in $((SECONDS - begin)) s"
    else
        failed=$((failed + 1))
        failures+=("$name")
        say "$name: FAILED after $((SECONDS - begin)) s"
    fi
}

# tests NAME COMMAND…: one step whose tests are counted one by one.
tests() {
    local name=$1 begin=$SECONDS status ok bad
    shift
    say "$name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    # cargo test: "test result: ok. 3 passed; 1 failed; …"; nextest: "Summary [ 1.2s] 4 tests run: 3 passed, 1 failed, …"
    read -r ok bad < <(sed $'s/\033\\[[0-9;]*m//g' "$log" | awk '
        /^test result: / || /^ *Summary \[/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) ok += $(i - 1)
                if ($i ~ /^failed/ || $i ~ /^timed/) bad += $(i - 1)
            }
        }
        END { print ok + 0, bad + 0 }')
    passed=$((passed + ok)) failed=$((failed + bad))
    if [ "$status" != 0 ]; then
        [ "$bad" != 0 ] || failed=$((failed + 1)) # did not build, or did not come to its end
        failures+=("$name")
        say "$name: FAILED after $((SECONDS - begin)) s"
    elif [ "$ok" = 0 ]; then
        failed=$((failed + 1))
        failures+=("$name: ran no test")
        say "$name: FAILED, ran no test"
    else
        say "$name: passed in $((SECONDS - begin)) s"
    fi
}

model_tests() {
    # Without link-time optimisation: it takes longer than it saves here.
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$target/loom" CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo test --locked --release --lib loom
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --lib --quiet
}

target=${CARGO_TARGET_DIR:-target}

check "format" cargo fmt --check
check "lints" cargo clippy --locked --quiet --all-targets -- -D warnings
if cargo nextest --version >/dev/null 2>&1; then
    tests "unit and integration tests" cargo nextest run --locked --no-fail-fast --status-level slow --final-status-level slow
else
    tests "unit and integration tests" cargo test --locked --no-fail-fast --lib --bins --tests
fi
check "examples in the documentation" cargo test --locked --quiet --doc
[ -n "$fast" ] || tests "model tests" model_tests
check "documentation" documentation

for name in "${failures[@]}"; do say "FAILED: $name"; done
say "in $((SECONDS / 60)) min $((SECONDS % 60)) s"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
