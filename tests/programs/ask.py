"""Sends requests as they are told, a line of JSON each, and tells each response in a line; one connection for each host."""
import json
import socket
import sys
import time

connections = {}


def connect(host):
    stream = socket.create_connection((host, 80), timeout=20)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Who connects is expected to ask: connections to endpoints are made meanwhile.
    time.sleep(0.3)
    return stream, stream.makefile("rb")


def ask(told):
    host = told["address"]
    if host not in connections:
        connections[host] = connect(host)
    stream, reader = connections[host]
    stream.sendall(told["bytes"].encode())
    status = int(reader.readline().split(b" ")[1])
    headers = {}
    while (line := reader.readline().strip()):
        name, value = line.decode().split(":", 1)
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while (size := int(reader.readline(), 16)):
            body += reader.read(size)
            reader.readline()
        while reader.readline().strip():
            pass
    elif told["bytes"].startswith("HEAD") or status in (204, 304):
        pass
    else:
        body = reader.read(int(headers.get("content-length", 0)))
    if headers.get("connection") == "close":
        del connections[host]
    return {"status": status, "headers": headers, "body": body.decode("latin-1")}


for line in sys.stdin:
    began = time.monotonic()
    answer = ask(json.loads(line))
    answer["ms"] = (time.monotonic() - began) * 1000
    print(json.dumps(answer), flush=True)
