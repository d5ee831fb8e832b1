#!/usr/bin/env bash
# The echo server as programs see it that are not written in Rust: nc, Python's socket module, and 5,000 asyncio
# connections at once. It must answer byte for byte on one OS thread, and end with status 0 on SIGTERM.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "clients: $*" >&2
    exit 1
}

# The load has 5,000 descriptors, and so has the server.
ulimit -n "$(ulimit -Hn)"
hard=$(ulimit -n)
[ "$hard" = unlimited ] || [ "$hard" -ge 5100 ] || fail "only $hard descriptors are allowed here, 5100 are needed (ulimit -Hn)"
# Debian's nc.traditional has no -N, which ends the sending side when the input ends.
nc_ends() { command -v nc >/dev/null && nc -h 2>&1 | grep -q -- '-N'; }
if ! nc_ends; then
    [ "$(id -u)" = 0 ] || fail "install netcat-openbsd: this script does so only as root"
    apt-get update -qq && apt-get install -y -qq netcat-openbsd >/dev/null
    nc_ends || fail "there is no nc with -N, even after installing netcat-openbsd"
fi
command -v python3 >/dev/null || fail "there is no python3"

cargo build --release --example echo_server
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')

scratch=$(mktemp -d)
server=
end() {
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || true
    fi
    rm -rf "$scratch"
}
trap end EXIT

"$target/release/examples/echo_server" 127.0.0.1:0 --quiet >"$scratch/out" 2>"$scratch/err" &
server=$!
for _ in $(seq 100); do
    grep -q '^listening on ' "$scratch/out" && break
    kill -0 "$server" 2>/dev/null || fail "the server did not start: $(cat "$scratch/err")"
    sleep 0.1
done
port=$(sed -n 's/^listening on 127\.0\.0\.1:\([0-9][0-9]*\)$/\1/p' "$scratch/out")
[ -n "$port" ] || fail "the server does not say where it listens: $(cat "$scratch/out" "$scratch/err")"

threads() { sed -n 's/^Threads:[[:space:]]*//p' "/proc/$server/status"; }

head -c 3000000 /dev/urandom >"$scratch/sent"
timeout 30 nc -N 127.0.0.1 "$port" <"$scratch/sent" >"$scratch/back" || fail "nc ended with status $?"
cmp "$scratch/sent" "$scratch/back" || fail "nc got back something else than it sent"
echo "nc: 3000000 bytes there and back"

timeout 30 python3 - "$port" <<'EOF' || fail "Python's socket module: status $?"
import os, socket, sys, threading

address = ("127.0.0.1", int(sys.argv[1]))

def exactly(connection, size):
    got = b""
    while len(got) < size:
        part = connection.recv(size - len(got))
        assert part, "the server ended the connection"
        got += part
    return got

for size in (1, 64, 16384, 16385, 100_000):
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(10):
            message = os.urandom(size)
            connection.sendall(message)
            assert exactly(connection, size) == message, f"{size} bytes came back otherwise"

# More than fits into the buffers: it must be read while it is written.
message = os.urandom(20_000_000)
with socket.create_connection(address, timeout=10) as connection:
    writer = threading.Thread(target=lambda: (connection.sendall(message), connection.shutdown(socket.SHUT_WR)))
    writer.start()
    assert exactly(connection, len(message)) == message, "20 MB came back otherwise"
    assert connection.recv(1) == b"", "something came back that was not sent"
    writer.join()

# One that breaks off in the middle hurts nobody.
rude = socket.create_connection(address, timeout=10)
rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
rude.sendall(b"unread")
rude.close()
with socket.create_connection(address, timeout=10) as connection:
    connection.sendall(b"still there")
    assert exactly(connection, 11) == b"still there"
print("socket: 1 byte to 20 MB there and back")
EOF

timeout 90 python3 - "$port" "$server" <<'EOF' || fail "5,000 asyncio connections: status $?"
import asyncio, os, sys

port, server = int(sys.argv[1]), sys.argv[2]
CONNECTIONS, MESSAGES = 5000, 5

async def connect(gate):
    async with gate:
        return await asyncio.open_connection("127.0.0.1", port)

async def talk(number, reader, writer):
    for round in range(MESSAGES):
        message = b"%d/%d " % (number, round) + os.urandom(200)
        writer.write(message)
        await writer.drain()
        assert await reader.readexactly(len(message)) == message, f"connection {number}: something else came back"

async def main():
    gate = asyncio.Semaphore(500)  # being made at once, so as not to overrun the kernel's queue
    connections = await asyncio.gather(*(connect(gate) for _ in range(CONNECTIONS)))
    await asyncio.gather(*(talk(number, *connection) for number, connection in enumerate(connections)))
    sockets = [f for f in os.listdir(f"/proc/{server}/fd") if os.readlink(f"/proc/{server}/fd/{f}").startswith("socket:")]
    assert len(sockets) >= CONNECTIONS, f"only {len(sockets)} are open"
    status = dict(line.split(":", 1) for line in open(f"/proc/{server}/status"))
    assert status["Threads"].strip() == "1", f"the server has {status['Threads'].strip()} threads"
    await asyncio.gather(*(talk(number, *connection) for number, connection in enumerate(connections)))
    for _, writer in connections:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in connections))
    print(f"asyncio: {CONNECTIONS} connections at once, {2 * MESSAGES} messages each, on one thread of the server")

asyncio.run(main())
EOF

[ "$(threads)" = 1 ] || fail "the server has $(threads) threads"
kill -TERM "$server"
for _ in $(seq 200); do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
! kill -0 "$server" 2>/dev/null || fail "the server has not ended 20 s after SIGTERM"
status=0
wait "$server" || status=$?
server=
[ "$status" = 0 ] || fail "the server ended with status $status on SIGTERM: $(cat "$scratch/err")"
grep -v 'Connection reset by peer' "$scratch/err" && fail "the server complained"
echo "clients: ended with status 0 on SIGTERM"
