#!/usr/bin/env bash
# Destroys the PostgreSQL cluster that all test processes of a run share, some seconds after the last of them ended.
#
# Each test process holds a shared lock on DIR/users.lock while it lives; whoever starts the cluster, joins it or ends
# it does so under DIR/start.lock. So there is no instant at which a cluster that somebody uses is ended.
set -u
script=$1 dir=$2
exec 8>"$dir/start.lock" 9>"$dir/users.lock"
while :; do
    flock -x 9 && flock -u 9 # waits until nobody uses it
    sleep 5                  # the next test binary may be about to start
    flock -x 8
    if flock -n -x 9; then
        bash "$script" destroy "$dir/cluster" >/dev/null 2>&1
        exit
    fi
    flock -u 8
done
