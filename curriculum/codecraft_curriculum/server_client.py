"""The client that asks a server of an agent's, inside the sandbox; text, which python3 -c is given."""

from __future__ import annotations

__all__ = ["CLIENT"]

CLIENT = r"""
import base64, http.client, json, os, signal, socket, subprocess, sys, time

job = json.load(sys.stdin)
port, limit_s = job["port"], job["answer_s"]
deadline = time.monotonic() + job["start_s"]
nothing = subprocess.DEVNULL
server = subprocess.Popen(job["command"], stdin=nothing, stdout=nothing, start_new_session=True)


def connect():
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=limit_s)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def over_http(exchange):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    client.sock = connect()
    client.request(exchange["method"], exchange["path"], exchange["send"].encode() or None, exchange["headers"])
    reply = client.getresponse()
    headers = {name.lower(): value for name, value in reply.getheaders()}
    body = reply.read(1 << 18)
    client.close()
    return {"status": reply.status, "headers": headers, "body": base64.b64encode(body).decode()}


def over_tcp(exchange):
    with connect() as client:
        client.sendall(exchange["send"].encode())
        if not exchange["keep_open"]:
            client.shutdown(socket.SHUT_WR)
        body = b""
        while len(body) < 1 << 18:
            data = client.recv(65536)
            if not data:
                break
            body += data
    return {"body": base64.b64encode(body).decode()}


answers, idle = [], []
try:
    for exchange in job["exchanges"]:
        try:
            while len(idle) < job["idle"]:
                idle.append(connect())
            answers.append(over_http(exchange) if exchange["method"] else over_tcp(exchange))
        except (OSError, http.client.HTTPException) as error:
            answers.append({"error": type(error).__name__ + ": " + str(error)})
finally:
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    server.wait()
print(json.dumps(answers))
"""
