"""The two ends of connections, and the proxy between them, that stay open until they are killed.

    serve PORT...        accept, answer each line with the same line, keep the connection
    relay [tproxy]       the same as a sidecar does: 15001 and 15006, to the original destination
    dial                 a JSON line on standard input each: connect, send, await the answer, keep

Nothing but the standard library: it is given to a Python of another user as text.
"""

import ctypes
import json
import resource
import selectors
import socket
import struct
import sys

ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
ORIGINAL = {socket.AF_INET: (socket.SOL_IP, 80), socket.AF_INET6: (socket.IPPROTO_IPV6, 80)}
TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}
#: What hands a connection to the application, and so must not be captured again.
PASS = {socket.AF_INET: "127.0.0.6", socket.AF_INET6: "::6"}
PROXY_MARK = 1337
PR_SET_NAME = 15


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def listen(port, family, transparent=False):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        sock.setsockopt(*TRANSPARENT[family], 1)
    sock.bind((ANY[family], port))
    sock.listen(4096)
    return sock


def original(sock):
    """What the client dialled; what the socket says where nothing was translated."""
    try:
        data = sock.getsockopt(*ORIGINAL[sock.family], 28)
    except OSError:
        return sock.getsockname()[:2]
    (port,) = struct.unpack_from("!H", data, 2)
    packed = data[4:8] if sock.family == socket.AF_INET else data[8:24]
    return socket.inet_ntop(sock.family, packed), port


def serve(ports):
    pool = selectors.DefaultSelector()
    for port in ports:
        for family in ANY:
            pool.register(listen(port, family), selectors.EVENT_READ, "listener")
    say("ready")
    while True:
        for key, _ in pool.select():
            if key.data == "listener":
                pool.register(key.fileobj.accept()[0], selectors.EVENT_READ, "")
            elif not echo(key.fileobj):
                pool.unregister(key.fileobj)
                key.fileobj.close()


def echo(sock):
    try:
        data = sock.recv(4096)
        sock.sendall(data)
    except OSError:
        return False
    return bool(data)


def relay(tproxy):
    pool = selectors.DefaultSelector()
    for port in (15001, 15006):
        for family in ANY:
            sock = listen(port, family, tproxy and port == 15006)
            pool.register(sock, selectors.EVENT_READ, port)
    say("ready")
    other = {}
    while True:
        for key, _ in pool.select():
            if isinstance(key.data, int):
                pair = join(key.fileobj, inbound=key.data == 15006, tproxy=tproxy)
                for near, far in (pair, pair[::-1]) if pair else ():
                    other[near] = far
                    pool.register(near, selectors.EVENT_READ, "")
            elif key.fileobj in other:
                pump(pool, other, key.fileobj)


def join(listener, inbound, tproxy):
    """The accepted socket, and one to where it was meant to go."""
    sock, client = listener.accept()
    target = original(sock)
    upstream = socket.socket(sock.family, socket.SOCK_STREAM)
    upstream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if inbound and tproxy:
            upstream.setsockopt(*TRANSPARENT[sock.family], 1)
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROXY_MARK)
            upstream.bind((client[0], 0))
        elif inbound:
            upstream.bind((PASS[sock.family], 0))
        upstream.connect(target)
    except OSError as e:
        print(f"{target}: {e}", file=sys.stderr, flush=True)
        sock.close()
        return None
    return sock, upstream


def pump(pool, other, near):
    try:
        data = near.recv(65536)
        if data:
            other[near].sendall(data)
            return
    except OSError:
        pass
    far = other.pop(near)
    other.pop(far, None)
    for sock in (near, far):
        pool.unregister(sock)
        sock.close()


def dial():
    kept = []
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        if "name" in order:
            ctypes.CDLL(None).prctl(PR_SET_NAME, order["name"].encode())
            say("named")
        elif "speak" in order:
            say([speak(sock) for sock in kept])
        else:
            socks = [connect(order) for _ in range(order.get("count", 1))]
            kept += socks
            say([sock.getsockname()[:2] for sock in socks])


def connect(order):
    to = order["to"]
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    kind = socket.SOCK_DGRAM if order.get("udp") else socket.SOCK_STREAM
    sock = socket.socket(family, kind)
    sock.settimeout(5)
    if order.get("source"):
        sock.bind((order["source"], 0))
    sock.connect((to, order["port"]))
    if kind == socket.SOCK_DGRAM:
        sock.send(b"hello")
    elif speak(sock) != "heard":
        raise SystemExit(f"no answer from {to} {order['port']}")
    return sock


def speak(sock):
    try:
        sock.sendall(b"hello\n")
        return "heard" if sock.recv(4096) == b"hello\n" else "closed"
    except OSError as e:
        return type(e).__name__


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16384), most))
    if sys.argv[1] == "serve":
        serve([int(port) for port in sys.argv[2:]])
    elif sys.argv[1] == "relay":
        relay(sys.argv[2:] == ["tproxy"])
    else:
        dial()
