"""The client that asks a server of an agent's, inside the sandbox; text, which python3 -c is given."""

from __future__ import annotations

__all__ = ["CLIENT"]

CLIENT = r"""
import base64, http.client, json, os, signal, socket, struct, subprocess, sys, time

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def reset(client):
    # Closed so, neither end stays on as a remnant that keeps the port from the next server.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


job = json.load(sys.stdin)
port, limit_s = job["port"] or free_port(), job["answer_s"]
deadline = time.monotonic() + job["start_s"]
nothing = subprocess.DEVNULL
words = [word.replace("@PORT@", str(port)) for word in job["command"]]
server = subprocess.Popen(words, stdin=nothing, stdout=nothing, start_new_session=True)


ended = []


def ended_by():
    ended.append(time.monotonic())
    return min(ended[0] + 0.5, deadline)


def connect():
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=limit_s)
        except ConnectionRefusedError:
            # One that has ended will not listen any more, unless it has left another process to do so.
            if time.monotonic() > (deadline if server.poll() is None else ended_by()):
                raise
            time.sleep(0.02)


def over_http(exchange):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    connection = connect()
    client.sock = connection.dup()
    client.request(exchange["method"], exchange["path"], exchange["send"].encode() or None, exchange["headers"])
    reply = client.getresponse()
    headers = {name.lower(): value for name, value in reply.getheaders()}
    body = reply.read(1 << 18)
    client.close()
    reset(connection)
    return {"status": reply.status, "headers": headers, "body": base64.b64encode(body).decode()}


def over_tcp(exchange):
    client = connect()
    client.sendall(exchange["send"].encode())
    if not exchange["keep_open"]:
        client.shutdown(socket.SHUT_WR)
    body = b""
    while len(body) < 1 << 18:
        data = client.recv(65536)
        if not data:
            break
        body += data
    reset(client)
    return {"body": base64.b64encode(body).decode()}


answers, idle = [], []
try:
    for exchange in job["exchanges"]:
        if answers and "error" in answers[-1] and job["stop"]:
            answers.append({"error": "not asked any more"})
            continue
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
    for client in idle:
        reset(client)
print(json.dumps(answers))
"""
