#!/usr/bin/env bash
# Throwaway PostgreSQL clusters for tests and for the quickstart.
#
#   postgres.sh create DIR PORT [CONNECTIONS]   initdb in DIR/data, listening on 127.0.0.1:PORT and in DIR;
#                                               max_connections = CONNECTIONS (300)
#   postgres.sh start DIR         start it and wait until it accepts
#   postgres.sh stop DIR [MODE]   stop it: smart, fast (default) or immediate
#   postgres.sh destroy DIR       stop it and delete DIR
#
# PostgreSQL refuses to run as root; started by root, it runs as the user postgres. Nothing is written for safety
# (fsync = off): a cluster of this kind must never hold anything that matters.
set -euo pipefail

say_error() {
    printf 'postgres.sh: %s\n' "$*" >&2
    exit 1
}

# Where the server programs are: on PATH, or where Debian has them (not on PATH there), the newest first.
postgres_bin() {
    local dir
    if [ -n "${HOWDAH_PG_BIN:-}" ]; then
        echo "$HOWDAH_PG_BIN"
        return
    fi
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
        [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && echo "$dir" && return
    done
    if command -v initdb >/dev/null; then
        dirname "$(readlink -f "$(command -v initdb)")"
        return
    fi
    say_error "no PostgreSQL server programs found (set HOWDAH_PG_BIN to their folder)"
}

as_postgres() {
    # `/` is a folder that the user postgres may stand in.
    if [ "$(id -u)" = 0 ]; then
        (cd / && runuser -u postgres -- "$@")
    else
        (cd / && "$@")
    fi
}

create() {
    local dir=$1 port=$2 connections=${3:-300} bin
    bin=$(postgres_bin)
    mkdir -p "$dir"
    chmod 755 "$dir"
    if [ "$(id -u)" = 0 ]; then
        id postgres >/dev/null 2>&1 || say_error "there is no user postgres to run PostgreSQL as"
        chown postgres "$dir"
    fi
    as_postgres "$bin/initdb" --no-sync --no-instructions -D "$dir/data" -U postgres --auth=trust -E UTF8 \
        --locale=C.UTF-8 >"$dir/initdb.log" 2>&1 || {
        cat "$dir/initdb.log" >&2
        say_error "initdb failed in $dir"
    }
    as_postgres tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$dir'
max_connections = $connections
shared_buffers = 64MB
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = logical
max_wal_senders = 10
log_line_prefix = '%m [%p] %u@%d %a '
CONF
}

start() {
    local dir=$1 bin
    bin=$(postgres_bin)
    as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/postgres.log" -w -t 60 start >"$dir/pg_ctl.log" 2>&1 || {
        tail -n 5 "$dir/pg_ctl.log" "$dir/postgres.log" >&2 2>/dev/null || true
        say_error "PostgreSQL did not start in $dir"
    }
}

stop() {
    local dir=$1 mode=${2:-fast} bin
    bin=$(postgres_bin)
    [ -e "$dir/data/postmaster.pid" ] || return 0
    as_postgres "$bin/pg_ctl" -D "$dir/data" -m "$mode" -w -t 60 stop >>"$dir/pg_ctl.log" 2>&1 ||
        say_error "PostgreSQL did not stop in $dir"
}

destroy() {
    local dir=$1
    [ -d "$dir" ] || return 0
    stop "$dir" immediate || true
    rm -rf "$dir"
}

verb=${1:-}
[ $# -ge 2 ] || say_error "usage: postgres.sh create DIR PORT [CONNECTIONS] | start DIR | stop DIR [MODE] | destroy DIR"
shift
case $verb in
create | start | stop | destroy) "$verb" "$@" ;;
*) say_error "unknown verb: $verb" ;;
esac
