"""Asks a service over http.client, and compares: client.py HOST COUNT (blocking | timeout) NAME"""
import http.client
import sys

host, count, kind, name = sys.argv[1:]
timeout = {"timeout": 20.0, "blocking": None}[kind]
connection = http.client.HTTPConnection(host, 80, timeout=timeout)
for number in range(int(count)):
    if number % 3 == 2:
        body = (f"{number} " * (number * 7 % 3000)).encode()
        connection.request("POST", "/echo", body)
    else:
        body = f"{name} /x?n={number}\n".encode()
        connection.request("GET", f"/x?n={number}")
    response = connection.getresponse()
    seen = response.read()
    if response.status != 200 or seen != body:
        sys.exit(f"request {number}: {response.status} {seen[:200]!r}")
print("right", count)
