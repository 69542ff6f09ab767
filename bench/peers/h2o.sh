#!/bin/sh
# h2o as a peer of `baton-bench compare`: one thread, no access log, two small files. Stays in the foreground.
# Usage: h2o.sh PORT
set -eu
[ $# -eq 1 ] || { echo "usage: h2o.sh PORT" >&2; exit 2; }
command -v h2o >/dev/null || { echo "h2o.sh: h2o is missing: install the Debian package h2o" >&2; exit 2; }
port=$1
folder=$(mktemp -d)
# Started as root, h2o serves as nobody, who must reach the files.
chmod 755 "$folder"
ulimit -n "$(ulimit -Hn)"
printf 'Hello, World!' >"$folder/plaintext"
printf '{"message":"Hello, World!"}' >"$folder/json"
cat >"$folder/h2o.conf" <<CONF
num-threads: 1
num-name-resolution-threads: 1
tcp-fastopen: 0
max-connections: 16384
http1-request-timeout: 300
file.etag: OFF
file.send-gzip: OFF
listen:
  host: 127.0.0.1
  port: $port
hosts:
  default:
    paths:
      /plaintext:
        file.file: $folder/plaintext
        file.mime.setdefaulttype: text/plain
      /json:
        file.file: $folder/json
        file.mime.setdefaulttype: application/json
CONF
exec h2o -m worker -c "$folder/h2o.conf"
