#!/usr/bin/env python3
"""qmp_client: talks QMP, for tests and for people. Works with QEMU as with revirter.

	qmp_client.py [--timeout S] [--wait S] ADDRESS [STEP...]

ADDRESS is the path of a unix socket or HOST:PORT. --wait waits that long for somebody to listen there.
STEPs are done in order, each printing one line of JSON:

	COMMAND				execute it; prints what "return" has
	COMMAND KEY=VALUE...		with arguments; a VALUE that is JSON is taken as such, else as text
	COMMAND '{"key": ...}'		the same in JSON
	COMMAND fd=PATH			passes that file's descriptor along (KEY=VALUE and fd= may be mixed)
	event:NAME			wait for that event; prints it
	raw:TEXT			send TEXT as it is and print the next answer, whatever it is
	keys:				read the answer of the step before as a list of its member paths and types

Steps are told apart by "--": qmp_client.py sock stop -- event:STOP -- query-status
Events that come while an answer is awaited are kept for event: steps. Exit status 1 when a command
fails (its error is printed), 2 when there is no connection or nothing comes in time.

As a module: Client(address).execute("stop"), .wait_event("STOP"), .events.
"""
import argparse
import json
import os
import socket
import sys
import time


class Error(Exception):
    """What the server answered instead of a result."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.error = error


class Client:
    """A connection, greeted and negotiated."""

    def __init__(self, address, timeout=10, wait=0, negotiate=True):
        self.events = []
        self._buffer = b""
        self._timeout = timeout
        self._socket = connect(address, wait)
        self._socket.settimeout(timeout)
        self.greeting = self._receive()["QMP"]
        if negotiate:
            self.execute("qmp_capabilities")

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, text, fd=None):
        """Sends text as it is, with a descriptor if there is one."""
        if fd is None:
            self._socket.sendall(text.encode())
        else:
            socket.send_fds(self._socket, [text.encode()], [fd])

    def _receive(self):
        """The next JSON value of the stream, whatever it is."""
        decoder = json.JSONDecoder()
        while True:
            text = self._buffer.lstrip()
            if text:
                try:
                    value, end = decoder.raw_decode(text.decode())
                    self._buffer = text.decode()[end:].encode()
                    return value
                except ValueError:
                    pass  # it has not come to its end
            data = self._socket.recv(65536)
            if not data:
                raise EOFError("the server closed the connection")
            self._buffer += data

    def answer(self):
        """The next answer; events on the way are kept."""
        while True:
            value = self._receive()
            if "event" not in value:
                return value
            self.events.append(value)

    def execute(self, command, arguments=None, fd=None):
        """Runs a command and returns its result; raises Error."""
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self.send(json.dumps(request) + "\n", fd)
        answer = self.answer()
        if "error" in answer:
            raise Error(answer["error"])
        return answer["return"]

    def wait_event(self, name):
        """The first event of that name since the last such call; earlier ones are forgotten."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if event["event"] == name:
                    return event
            self.events.append(self._receive())


def connect(address, wait):
    deadline = time.monotonic() + wait
    while True:
        host, colon, port = address.rpartition(":")
        try:
            if colon and "/" not in address:
                return socket.create_connection((host or "localhost", int(port)))
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address)
            return sock
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def keys(value, path=""):
    """Member paths and types of an answer: what two servers can be compared by."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from keys(value[key], f"{path}.{key}")
    elif isinstance(value, list):
        yield f"{path}[]"
        yield from sorted({line for item in value for line in keys(item, f"{path}[]")})
    else:
        yield f"{path}: {'number' if type(value) in (int, float) else type(value).__name__}"


def parse_arguments(words):
    arguments, fd = {}, None
    for word in words:
        if word.startswith("{"):
            arguments.update(json.loads(word))
            continue
        key, equals, value = word.partition("=")
        if not equals:
            raise SystemExit(f"qmp_client: '{word}' is not KEY=VALUE")
        if key == "fd":
            fd = os.open(value, os.O_RDWR)
            continue
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments, fd


def do_step(client, words, last):
    """Does one step and returns what it printed."""
    kind, colon, rest = words[0].partition(":")
    if colon and kind == "event":
        result = client.wait_event(rest)
    elif colon and kind == "raw":
        client.send(rest)
        result = client.answer()
    elif colon and kind == "keys":
        result = list(keys(last))
    else:
        arguments, fd = parse_arguments(words[1:])
        result = client.execute(words[0], arguments, fd)
    print(json.dumps(result), flush=True)
    return result


def split_steps(words):
    steps = [[]]
    for word in words:
        if word == "--":
            steps.append([])
        else:
            steps[-1].append(word)
    return [step for step in steps if step]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=10)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("address")
    parser.add_argument("steps", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    last = None
    try:
        with Client(args.address, args.timeout, args.wait) as client:
            for step in split_steps(args.steps):
                last = do_step(client, step, last)
    except Error as error:
        print(json.dumps({"error": error.error}))
        return 1
    except (OSError, EOFError) as error:
        print(f"qmp_client: {args.address}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
