#!/bin/sh
# nginx as a peer of `baton-bench compare`: one worker, no access log, fixed answers. Stays in the foreground.
# Usage: nginx.sh PORT
set -eu
[ $# -eq 1 ] || { echo "usage: nginx.sh PORT" >&2; exit 2; }
command -v nginx >/dev/null || { echo "nginx.sh: nginx is missing: install the Debian package nginx" >&2; exit 2; }
port=$1
folder=$(mktemp -d)
cat >"$folder/nginx.conf" <<CONF
daemon off;
worker_processes 1;
pid $folder/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events { worker_connections 16384; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    default_type text/plain;
    server {
        listen 127.0.0.1:$port backlog=4096 reuseport;
        location / { return 200 "Hello, World!"; }
        location = /json { default_type application/json; return 200 '{"message":"Hello, World!"}'; }
    }
}
CONF
exec nginx -p "$folder" -c "$folder/nginx.conf"
