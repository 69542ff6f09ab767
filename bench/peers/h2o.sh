#!/bin/sh
# h2o as a peer of `baton-bench compare`: one thread, no access log, small files, and a folder of larger ones with their
# compressed siblings; with TLS where a certificate is given, whose sessions are resumed by tickets alone. Stays in the
# foreground.
# Usage: h2o.sh PORT FOLDER [CERTIFICATE KEY]
set -eu
[ $# -eq 2 ] || [ $# -eq 4 ] || { echo "usage: h2o.sh PORT FOLDER [CERTIFICATE KEY]" >&2; exit 2; }
command -v h2o >/dev/null || { echo "h2o.sh: h2o is missing: install the Debian package h2o" >&2; exit 2; }
port=$1
data=$2
folder=$(mktemp -d)
tls=
if [ $# -eq 4 ]; then
    tls="ssl: { certificate-file: '$3', key-file: '$4', minimum-version: TLSv1.2, ocsp-update-interval: 0 }"
    resumption="ssl-session-resumption: { mode: ticket }"
fi
ulimit -n "$(ulimit -Hn)"
printf 'Hello, World!' >"$folder/plaintext"
printf '{"message":"Hello, World!"}' >"$folder/json"
printf 'ok' >"$folder/pipeline"
cat >"$folder/h2o.conf" <<CONF
# Started as root, h2o would serve as nobody, who may not reach the files.
$([ "$(id -u)" -ne 0 ] || echo "user: root")
${resumption:-}
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
  $tls
hosts:
  default:
    paths:
      /plaintext:
        file.file: $folder/plaintext
        file.mime.setdefaulttype: text/plain
      /json:
        file.file: $folder/json
        file.mime.setdefaulttype: application/json
      /pipeline:
        file.file: $folder/pipeline
        file.mime.setdefaulttype: text/plain
      /static:
        file.dir: $data/static
        file.send-compressed: ON
CONF
exec h2o -m worker -c "$folder/h2o.conf"
