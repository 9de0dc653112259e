#!/usr/bin/env bash
# Howdah in front of a PostgreSQL in one command: see --help.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=contrib/lib/common.sh
. contrib/lib/common.sh

usage() {
    cat <<'TEXT'
Usage: contrib/quickstart.sh [OPTION…]

Builds Howdah, starts it in front of a throwaway PostgreSQL, runs pgbench through it, shows the pool, and stays up
until Ctrl-C. Nothing is left behind.

  --port N             port of Howdah on 127.0.0.1 [6432]
  --size N             server connections [20]
  --clients N          the most clients at a time [200]
  --server HOST:PORT   use the PostgreSQL that is there instead of a throwaway one; nothing is written to it
  --user NAME          user there [postgres]; the password is taken from PGPASSWORD
  --database NAME      database there [postgres]
  --once               end after the demonstration, with exit code 0
  --help               this text
TEXT
}

port=6432 size=20 clients=200 server='' user=postgres database=postgres once=''

# number OPTION VALUE MIN MAX: VALUE, or one clear line.
number() {
    case $2 in '' | *[!0-9]* | ??????*) die "$1 takes a number from $3 to $4, not \"$2\"" ;; esac
    [ "$((10#$2))" -ge "$3" ] && [ "$((10#$2))" -le "$4" ] || die "$1 takes a number from $3 to $4, not $2"
    echo "$((10#$2))"
}

while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
    --once) once=1 && continue ;;
    --help | -h) usage && exit 0 ;;
    --*=*) set -- "${option#*=}" "$@" && option=${option%%=*} ;;
    --port | --size | --clients | --server | --user | --database)
        [ $# -gt 0 ] || die "$option needs a value (see --help)"
        ;;
    *) die "unknown option: $option (see --help)" ;;
    esac
    case $option in
    --port) port=$(number "$option" "$1" 1 65535) ;;
    --size) size=$(number "$option" "$1" 1 10000) ;;
    --clients) clients=$(number "$option" "$1" 1 100000) ;;
    --server) server=$1 ;;
    --user) user=$1 ;;
    --database) database=$1 ;;
    *) die "unknown option: $option (see --help)" ;;
    esac
    shift
done
for name in "$user" "$database"; do
    case $name in '' | *[\"\\]*) die "a name must not be empty or hold quotes or backslashes: $name" ;; esac
done
if [ -z "$server" ] && { [ "$user" != postgres ] || [ "$database" != postgres ]; }; then
    die "--user and --database go with --server; the throwaway PostgreSQL has its own"
fi
server_host='' server_port=''
if [ -n "$server" ]; then
    case $server in
    *:*) server_host=${server%:*} server_port=$(number "the port in --server" "${server##*:}" 1 65535) ;;
    *) die "--server takes HOST:PORT, not \"$server\"" ;;
    esac
    server_host=${server_host#[} server_host=${server_host%]}
    [ -n "$server_host" ] || die "--server takes HOST:PORT, not \"$server\""
fi

# --- what is in the way is said before anything is done ---------------------------------------------------------------
port_in_use "$port" && die "port $port is in use; choose another with --port"
find_cargo

dir='' howdah_pid='' load_pid=''
cleanup() {
    local status=$?
    trap - EXIT INT TERM HUP
    set +e
    [ -z "$load_pid" ] || kill "$load_pid" 2>/dev/null
    if [ -n "$howdah_pid" ] && kill -0 "$howdah_pid" 2>/dev/null; then
        kill -TERM "$howdah_pid" 2>/dev/null
        for _ in $(seq 100); do
            kill -0 "$howdah_pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$howdah_pid" 2>/dev/null
    fi
    wait 2>/dev/null
    if [ -n "$dir" ]; then
        [ ! -d "$dir/postgres" ] || bash contrib/lib/postgres.sh destroy "$dir/postgres"
        rm -rf "$dir"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- tools ------------------------------------------------------------------------------------------------------------
packages=(gcc libc6-dev pkg-config libssl-dev postgresql-client)
[ -n "$server" ] || packages+=(postgresql)
need_packages "${packages[@]}"
# pgbench comes with the server's package, where Debian keeps it off PATH.
pg_bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
PATH="$PATH:$pg_bin"
need_tools cc psql pg_isready
if ! command -v pgbench >/dev/null; then
    need_packages postgresql
    pg_bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    PATH="$PATH:$pg_bin"
    need_tools pgbench
fi

if [ -n "$server" ]; then
    pg_isready -q -t 5 -h "$server_host" -p "$server_port" || die "no PostgreSQL answers at $server"
    # Not with ~/.pgpass: Howdah logs in there as well, and has only what PGPASSWORD says.
    refusal=$(PGPASSFILE=/nowhere/pgpass PGCONNECT_TIMEOUT=5 psql -X -w -q -A -t \
        -h "$server_host" -p "$server_port" -U "$user" -d "$database" -c 'select 1' 2>&1 >/dev/null) ||
        die "cannot log in to $server: $(printf '%s' "$refusal" | tail -n 1 | sed 's/^psql: error: //')"
fi

say "building Howdah (release)"
cargo build --release --locked --quiet --bins || die "the build failed"
target=${CARGO_TARGET_DIR:-target}

# --- a throwaway folder, readable by the unprivileged users -----------------------------------------------------------
dir=$(mktemp -d /tmp/howdah-quickstart.XXXXXX)
chmod 755 "$dir"
mkdir "$dir/howdah"
mkdir "$dir/bin"
cp "$target/release/howdah" "$target/release/howdah-cli" "$dir/bin/"

if [ -z "$server" ]; then
    server_host=127.0.0.1 server_port=$(free_port)
    say "creating a throwaway PostgreSQL on port $server_port"
    bash contrib/lib/postgres.sh create "$dir/postgres" "$server_port" $((size + 50)) || die "PostgreSQL could not be created"
    bash contrib/lib/postgres.sh start "$dir/postgres" || die "PostgreSQL could not be started"
fi

method=trust
[ -z "$server" ] || [ -z "${PGPASSWORD:-}" ] || method=scram-sha-256
cat >"$dir/howdah/howdah.toml" <<TOML
[howdah]
listen_addresses = ["127.0.0.1"]
port = $port
unix_socket_directories = []
max_connections = $size
max_clients = $clients
management_socket = "$dir/howdah/howdah.sock"
users_file = "users.txt"
[servers.main]
host = "$server_host"
port = $server_port
[[hba]]
type = "host"
database = "all"
user = "all"
address = "127.0.0.1/32"
method = "$method"
[[pools]]
database = "*"
user = "*"
mode = "session"
size = $size
TOML
: >"$dir/howdah/users.txt"
chmod 600 "$dir/howdah/users.txt" "$dir/howdah/howdah.toml"
if [ "$method" != trust ]; then
    printf '"%s" "%s"\n' "$user" "${PGPASSWORD//\"/\"\"}" >"$dir/howdah/users.txt"
fi

# Howdah never runs as root.
as_howdah=()
who=$(id -un)
if [ "$(id -u)" = 0 ]; then
    who=nobody
    chown -R nobody "$dir/howdah"
    as_howdah=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups --)
fi

say "starting Howdah as user $who on 127.0.0.1:$port, $size server connections, at most $clients clients"
log=$dir/howdah/howdah.log
"${as_howdah[@]}" "$dir/bin/howdah" -c "$dir/howdah/howdah.toml" </dev/null >"$log" 2>&1 &
howdah_pid=$!
cli() { "$dir/bin/howdah-cli" --socket "$dir/howdah/howdah.sock" "$@"; }
for _ in $(seq 100); do
    cli ping >/dev/null 2>&1 && break
    kill -0 "$howdah_pid" 2>/dev/null || die "Howdah did not start: $(tail -n 1 "$log")"
    sleep 0.1
done
cli ping >/dev/null || die "Howdah does not answer: $(tail -n 1 "$log")"

# --- the demonstration ------------------------------------------------------------------------------------------------
export PGHOST=127.0.0.1 PGPORT=$port PGUSER=$user PGDATABASE=$database PGSSLMODE=disable
load_clients=8
[ "$size" -ge "$load_clients" ] || load_clients=$size
[ "$clients" -ge "$load_clients" ] || load_clients=$clients
if [ -z "$server" ]; then
    say "creating pgbench's tables through Howdah"
    pgbench -i -q -s 5 >"$dir/pgbench.log" 2>&1 || die "pgbench -i failed: $(tail -n 1 "$dir/pgbench.log")"
    load=(-S)
else
    # Nothing is written to a database that is somebody's.
    echo 'select 1;' >"$dir/select.sql"
    load=(-f "$dir/select.sql")
fi
say "pgbench through Howdah: $load_clients clients for 6 seconds"
pgbench -n "${load[@]}" -c "$load_clients" -j "$((load_clients < 2 ? 1 : 2))" -T 6 >"$dir/pgbench.log" 2>&1 &
load_pid=$!
for _ in 1 2; do
    sleep 2
    kill -0 "$load_pid" 2>/dev/null || break
    say "howdah-cli status details"
    cli status details
done
wait "$load_pid" || die "pgbench failed: $(tail -n 1 "$dir/pgbench.log")"
load_pid=''
say "pgbench's result"
grep -E 'transactions actually processed|failed transactions|latency average|tps' "$dir/pgbench.log"

say "Howdah is up. To connect with psql:"
echo "    psql -h 127.0.0.1 -p $port -U $user $database"
say "To see the pool live:"
echo "    $dir/bin/howdah-cli --socket $dir/howdah/howdah.sock status details --watch"
[ -z "$once" ] || exit 0

say "Ctrl-C stops it and deletes everything."
trap 'exit 0' INT TERM HUP
wait "$howdah_pid" || true
die "Howdah has ended: $(tail -n 1 "$log")"
