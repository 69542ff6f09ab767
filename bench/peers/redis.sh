#!/bin/sh
# Redis as a peer of `baton-bench compare`: nothing saved, one thread for everything. Stays in the foreground.
# Usage: redis.sh PORT
set -eu
[ $# -eq 1 ] || { echo "usage: redis.sh PORT" >&2; exit 2; }
command -v redis-server >/dev/null ||
    { echo "redis.sh: redis-server is missing: install the Debian package redis-server" >&2; exit 2; }
port=$1
folder=$(mktemp -d)
ulimit -n "$(ulimit -Hn)"
exec redis-server --bind 127.0.0.1 --port "$port" --dir "$folder" --daemonize no --save "" --appendonly no \
    --io-threads 1 --tcp-backlog 4096 --maxclients 16384 --timeout 0 --loglevel warning
