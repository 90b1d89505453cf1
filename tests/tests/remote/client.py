"""Asks over kept connections and compares every byte: HOST PORT THREADS REQUESTS WAYS. Prints what it saw as JSON."""
import hashlib
import http.client
import json
import random
import sys
import threading

host, port, threads, requests = sys.argv[1], *map(int, sys.argv[2:5])
ways = sys.argv[5].split(",")
sizes = [0, 1, 100, 1447, 1448, 1449, 8000, 40000, 65000, 65536, 70000, 200000, 1 << 20]
seen = {"right": 0, "wrong": 0, "mixed": 0, "cut": 0, "told": 0, "failed": {}}
lock = threading.Lock()


def stuff(nonce, size):
    seed = hashlib.sha256(nonce.encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


def ask(connection, way, size, nonce):
    if way == "post":
        body = stuff(nonce, size)
        # Head and body apart, as http.client sends them.
        connection.request("POST", f"/post/{size}/{nonce}", body)
        expected = hashlib.sha256(body).hexdigest().encode()
    else:
        connection.request("GET", f"/{way}/{size}/{nonce}")
        expected = stuff(nonce, size)
    response = connection.getresponse()
    body = response.read()
    if response.status >= 500 and response.getheader("X-Alize-Reason"):
        return "told"
    if response.getheader("X-Nonce") != nonce:
        return "mixed"
    return "right" if body == expected else "wrong"


def run(number):
    rng = random.Random(number)
    connection = None
    for turn in range(requests):
        way, size = rng.choice(ways), rng.choice(sizes)
        if connection is None:
            connection = http.client.HTTPConnection(host, port, timeout=20)
        try:
            outcome = ask(connection, way, size, f"n{number}.{turn}")
            keep = way not in ("until-close", "die") and outcome == "right"
        except (http.client.IncompleteRead, ConnectionError, http.client.RemoteDisconnected) as error:
            outcome, keep = ("cut" if way == "die" else type(error).__name__), False
        except Exception as error:
            outcome, keep = f"{way} {size}: {error!r}", False
        if not keep:
            connection.close()
            connection = None
        with lock:
            if outcome in seen:
                seen[outcome] += 1
            else:
                seen["failed"][outcome] = seen["failed"].get(outcome, 0) + 1


all = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
for one in all:
    one.start()
for one in all:
    one.join()
print(json.dumps(seen))
