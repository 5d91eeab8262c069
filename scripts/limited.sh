#!/usr/bin/env bash
# Runs a program in a control group of limited memory, as a container would: `scripts/limited.sh 512M PROGRAM ARGUMENTS...`, or
# with the limit in SPAR_MEMORY_LIMIT and the program in SPAR_BINARY: `scripts/limited.sh ARGUMENTS...`.
# Needs the right to make control groups (root, as a rule), of version 2 or 1. The program keeps the process id of this script.
set -euo pipefail
if [ -n "${SPAR_MEMORY_LIMIT:-}" ]; then
    limit=$SPAR_MEMORY_LIMIT
    set -- "${SPAR_BINARY:?names the program}" "$@"
else
    limit=${1:?usage: scripts/limited.sh LIMIT PROGRAM ARGUMENTS...}
    shift
fi
bytes=$(numfmt --from=iec "$limit")
if grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    group=/sys/fs/cgroup/spar-limited-$$
    mkdir "$group"
    echo "$bytes" >"$group/memory.max"
    echo 0 >"$group/memory.swap.max" 2>/dev/null || true
else
    group=/sys/fs/cgroup/memory/spar-limited-$$
    mkdir "$group"
    echo "$bytes" >"$group/memory.limit_in_bytes"
fi
# The program replaces this script, so a process in a session of its own removes the group after it.
setsid bash -c 'while kill -0 "$0"; do sleep 0.5; done; until rmdir "$1"; do sleep 1; done' $$ "$group" </dev/null >/dev/null 2>&1 &
echo $$ >"$group/cgroup.procs"
exec "$@"
