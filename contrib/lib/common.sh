# What the scripts in contrib/ share: messages, missing packages, free ports. To be sourced by bash.

# say MESSAGE: one line of progress.
say() { printf '\033[1m==>\033[0m %s\n' "$*" | { [ -t 1 ] && cat || sed $'s/\033\\[[0-9]*m//g'; }; }

# die MESSAGE: one clear line on standard error, and the end. Traps clean up.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# as_root COMMAND…: run it as root, directly or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "must be root (or have sudo) to run: $*"
    fi
}

# missing_packages PACKAGE…: print those that are not installed.
missing_packages() {
    local package
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$package"
    done
}

# need_packages PACKAGE…: install what is missing with apt, saying what. Asks only a person at a terminal.
need_packages() {
    local missing answer
    command -v dpkg-query >/dev/null || return 0 # not Debian: need_tools tells what is missing
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    say "Debian packages to install: ${missing% }"
    if [ -t 0 ] && [ -t 1 ] && [ -z "${CI:-}" ]; then
        read -r -p "Install them with apt-get? [Y/n] " answer
        case $answer in [Nn]*) die "not installed: ${missing% }" ;; esac
    fi
    # Debian's PostgreSQL package would create and start a cluster of its own on port 5432, unless told not to.
    local tell_not_to=/etc/postgresql-common/createcluster.d/howdah.conf
    case $missing in
    *postgresql*)
        as_root mkdir -p "${tell_not_to%/*}"
        echo 'create_main_cluster = false' | as_root tee "$tell_not_to" >/dev/null
        ;;
    esac
    local log
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of words
    if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
        as_root rm -f "$tell_not_to"
        tail -n 15 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: ${missing% }"
    fi
    as_root rm -f "$tell_not_to"
    rm -f "$log"
}

# need_tools TOOL…: end with one line unless each can be run.
need_tools() {
    local tool
    for tool; do
        command -v "$tool" >/dev/null || die "missing tool: $tool"
    done
}

# find_cargo: put cargo on PATH where rustup puts it, or end with one line.
find_cargo() {
    command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null || die "missing tool: cargo (a Rust toolchain; see https://rustup.rs)"
}

# port_in_use PORT: does anything listen on it on this machine?
port_in_use() {
    local hex
    hex=$(printf ':%04X' "$1")
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        awk -v port="$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }'
}

# free_port: a port that nobody listens on, below the range that outgoing connections take theirs from.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        port_in_use "$port" || break
    done
    echo "$port"
}
