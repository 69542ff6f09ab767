#!/bin/sh
# HAProxy as a peer of `baton-bench compare`: one thread, no log, fixed answers made by its own rules, without the
# Server and Date headers, which it does not add by itself; with TLS where a certificate is given. Stays in the foreground.
# Usage: haproxy.sh PORT [FOLDER [CERTIFICATE KEY]]
set -eu
[ $# -eq 1 ] || [ $# -eq 2 ] || [ $# -eq 4 ] || { echo "usage: haproxy.sh PORT [FOLDER [CERTIFICATE KEY]]" >&2; exit 2; }
command -v haproxy >/dev/null || { echo "haproxy.sh: haproxy is missing: install the Debian package haproxy" >&2; exit 2; }
port=$1
folder=$(mktemp -d)
ulimit -n "$(ulimit -Hn)"
secure=
if [ $# -eq 4 ]; then
    # It wants both in one file.
    cat "$3" "$4" >"$folder/identity.pem"
    secure="ssl crt $folder/identity.pem"
fi
cat >"$folder/haproxy.cfg" <<CONF
global
    nbthread 1
    maxconn 16384
    # Without this the start fails where the hard limit of descriptors is below twice maxconn. No backend is used.
    no strict-limits
defaults
    mode http
    timeout client 300s
    timeout http-request 300s
    timeout http-keep-alive 300s
frontend peer
    bind 127.0.0.1:$port backlog 4096 $secure
    maxconn 16384
    http-request return status 200 content-type application/json string '{"message":"Hello, World!"}' if { path /json }
    http-request return status 200 content-type text/plain string "ok" if { path /pipeline }
    http-request return status 200 content-type text/plain string "Hello, World!"
CONF
exec haproxy -q -db -f "$folder/haproxy.cfg"
