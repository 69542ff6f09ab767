#!/bin/sh
# HAProxy as a peer of `baton-bench balance`: GET /?us=TIME is answered after that many microseconds, in which its thread does
# nothing else (a sleep of LuaSocket, which knows nothing of HAProxy's scheduler). Stays in the foreground.
# Usage: haproxy_lua.sh PORT THREADS
set -eu
[ $# -eq 2 ] || { echo "usage: haproxy_lua.sh PORT THREADS" >&2; exit 2; }
module=/usr/lib/x86_64-linux-gnu/lua/5.3/socket/core.so
command -v haproxy >/dev/null && [ -e "$module" ] || {
    echo "haproxy_lua.sh: install the Debian packages haproxy and lua-socket" >&2
    exit 2
}
folder=$(mktemp -d)
# Each thread has a state of Lua of its own: in a common one, one lock would let one thread sleep at a time.
cat >"$folder/sleeper.lua" <<'LUA'
local socket = require("socket")
local done, ended = 0, 0
core.register_service("sleeper", "http", function(applet)
    local service = tonumber(string.match(applet.qs or "", "us=(%d+)") or "1000") / 1e6
    local now = socket.gettime()
    local debt = now - ended < 0.0002 and math.min(now - done, 0.02) or 0
    local due = now + math.max(service - debt, 0)
    if due > now then socket.sleep(due - now) end
    done, ended = due, socket.gettime()
    applet:set_status(200)
    applet:add_header("content-length", "4")
    applet:add_header("content-type", "text/plain")
    applet:start_response()
    applet:send("done")
end)
LUA
cat >"$folder/haproxy.cfg" <<CONF
global
    nbthread $2
    maxconn 4000
    lua-load-per-thread $folder/sleeper.lua
defaults
    mode http
    timeout client 300s
    timeout http-keep-alive 300s
    timeout connect 5s
    timeout server 300s
frontend f
    bind 127.0.0.1:$1 backlog 4096
    http-request use-service lua.sleeper
CONF
exec haproxy -db -f "$folder/haproxy.cfg"
