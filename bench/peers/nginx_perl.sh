#!/bin/sh
# nginx as a peer of `baton-bench balance`: GET /?us=TIME is answered after that many microseconds, in which its worker does
# nothing else (ngx_http_perl_module runs in the worker's loop). Stays in the foreground.
# Usage: nginx_perl.sh PORT WORKERS
set -eu
[ $# -eq 2 ] || { echo "usage: nginx_perl.sh PORT WORKERS" >&2; exit 2; }
module=/usr/lib/nginx/modules/ngx_http_perl_module.so
command -v nginx >/dev/null && [ -e "$module" ] || {
    echo "nginx_perl.sh: install the Debian packages nginx and libnginx-mod-http-perl" >&2
    exit 2
}
folder=$(mktemp -d)
# A sleep that took too long makes the next one shorter where that has waited, as in `baton-bench serve`.
cat >"$folder/Sleeper.pm" <<'PERL'
package Sleeper;
use nginx;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);
my ($done, $ended) = (0, 0);
sub handler {
    my $request = shift;
    my ($us) = ($request->args // "") =~ /us=(\d+)/;
    my $service = ($us // 1000) / 1e6;
    my $now = clock_gettime(CLOCK_MONOTONIC);
    my $debt = $now - $ended < 0.0002 ? $now - $done : 0;
    $debt = 0.02 if $debt > 0.02;
    my $due = $now + ($service > $debt ? $service - $debt : 0);
    select(undef, undef, undef, $due - $now) if $due > $now;
    ($done, $ended) = ($due, clock_gettime(CLOCK_MONOTONIC));
    $request->send_http_header("text/plain");
    $request->print("done");
    return OK;
}
1;
PERL
cat >"$folder/nginx.conf" <<CONF
load_module $module;
daemon off;
worker_processes $2;
pid $folder/nginx.pid;
error_log stderr error;
# Started as root, nginx would serve as nobody, who may not reach the folder.
$([ "$(id -u)" -ne 0 ] || echo "user root;")
events { worker_connections 16384; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    perl_modules $folder;
    perl_require Sleeper.pm;
    server {
        listen 127.0.0.1:$1 backlog=4096 reuseport;
        location / { perl Sleeper::handler; }
    }
}
CONF
exec nginx -p "$folder" -c "$folder/nginx.conf"
