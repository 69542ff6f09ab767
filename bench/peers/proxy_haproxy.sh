#!/bin/sh
# HAProxy as a TCP proxy, for `baton-bench compare`: one thread, no log, one upstream without checks. Stays in the foreground.
# Usage: proxy_haproxy.sh PORT UPSTREAM
set -eu
[ $# -eq 2 ] || { echo "usage: proxy_haproxy.sh PORT UPSTREAM" >&2; exit 2; }
command -v haproxy >/dev/null || { echo "proxy_haproxy.sh: haproxy is missing: install the Debian package haproxy" >&2; exit 2; }
port=$1
upstream=$2
folder=$(mktemp -d)
ulimit -n "$(ulimit -Hn)"
cat >"$folder/haproxy.cfg" <<CONF
global
    nbthread 1
    maxconn 8192
    no strict-limits
defaults
    mode tcp
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    # splice(2) for long transfers, as its manual advises.
    option splice-auto
frontend peer
    bind 127.0.0.1:$port backlog 4096
    maxconn 8192
    default_backend upstream
backend upstream
    server upstream $upstream
CONF
exec haproxy -q -db -f "$folder/haproxy.cfg"
