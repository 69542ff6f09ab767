#!/bin/sh
# nginx as a peer of `baton-bench compare`: one worker, no access log, a fixed answer. Stays in the foreground.
# Usage: nginx.sh PORT
set -eu
port=${1:?usage: nginx.sh PORT}
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
    }
}
CONF
exec nginx -p "$folder" -c "$folder/nginx.conf"
