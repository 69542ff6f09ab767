#!/bin/sh
# nginx's stream module as a TCP proxy, for `baton-bench compare`: one worker, no log, one upstream. Stays in the foreground.
# Usage: proxy_nginx.sh PORT UPSTREAM
set -eu
[ $# -eq 2 ] || { echo "usage: proxy_nginx.sh PORT UPSTREAM" >&2; exit 2; }
module=/usr/lib/nginx/modules/ngx_stream_module.so
[ -e "$module" ] || { echo "proxy_nginx.sh: $module is missing: install the Debian package libnginx-mod-stream" >&2; exit 2; }
port=$1
upstream=$2
folder=$(mktemp -d)
cat >"$folder/nginx.conf" <<CONF
daemon off;
worker_processes 1;
load_module $module;
pid $folder/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events { worker_connections 16384; }
stream {
    tcp_nodelay on;
    server {
        listen 127.0.0.1:$port backlog=4096 reuseport;
        proxy_timeout 300s;
        proxy_pass $upstream;
    }
}
CONF
exec nginx -p "$folder" -c "$folder/nginx.conf"
