#!/usr/bin/env bash
# Ends what a test process leaves behind when it is killed itself (a time limit of the test runner, an abort).
#
# A test process starts one of these in a session of its own and writes lines to its standard input:
#   + group PGID        a process group to kill
#   + postgres DIR      a PostgreSQL cluster to destroy
#   + dir DIR           a folder to delete
#   - KIND WHAT         that one was ended by the test itself
# At the end of the input, which comes with the end of the test process however it ends, the rest is ended.
set -u
script=$1
declare -A left=()
while read -r sign kind what; do
    if [ "$sign" = + ]; then left["$kind $what"]=1; else unset "left[$kind $what]"; fi
done
for item in "${!left[@]}"; do
    read -r kind what <<<"$item"
    case $kind in group) kill -KILL -- "-$what" 2>/dev/null ;; esac
done
for item in "${!left[@]}"; do
    read -r kind what <<<"$item"
    case $kind in
    postgres) bash "$script" destroy "$what" >/dev/null 2>&1 ;;
    dir) rm -rf "$what" ;;
    esac
done
