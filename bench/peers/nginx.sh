#!/bin/sh
# nginx as a peer of `baton-bench compare`: one worker, no access log, fixed answers, and files by sendfile(2) with their
# compressed siblings; with TLS where a certificate is given, whose sessions are resumed by tickets alone. Stays in the
# foreground.
# Usage: nginx.sh PORT FOLDER [CERTIFICATE KEY]
set -eu
[ $# -eq 2 ] || [ $# -eq 4 ] || { echo "usage: nginx.sh PORT FOLDER [CERTIFICATE KEY]" >&2; exit 2; }
command -v nginx >/dev/null || { echo "nginx.sh: nginx is missing: install the Debian package nginx" >&2; exit 2; }
port=$1
data=$2
folder=$(mktemp -d)
secure=
tls=
if [ $# -eq 4 ]; then
    secure=ssl
    tls="ssl_certificate '$3'; ssl_certificate_key '$4'; ssl_protocols TLSv1.2 TLSv1.3;"
fi
cat >"$folder/nginx.conf" <<CONF
daemon off;
worker_processes 1;
pid $folder/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
# Started as root, nginx would serve as nobody, who may not reach the files.
$([ "$(id -u)" -ne 0 ] || echo "user root;")
events { worker_connections 16384; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    default_type text/plain;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=1000 inactive=300s;
    etag off;
    types {
        text/css css;
        text/html html;
        text/javascript js;
        application/json json;
        image/svg+xml svg;
        image/webp webp;
        font/woff2 woff2;
    }
    server {
        listen 127.0.0.1:$port $secure backlog=4096 reuseport;
        $tls
        location / { return 200 "Hello, World!"; }
        location = /json { types {} default_type application/json; return 200 '{"message":"Hello, World!"}'; }
        location = /pipeline { return 200 "ok"; }
        location /static/ { alias "$data/static/"; gzip_static on; }
    }
}
CONF
exec nginx -p "$folder" -c "$folder/nginx.conf"
