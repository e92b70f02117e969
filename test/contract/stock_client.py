"""The stock Python client as a servant: commands as JSON lines in, reports as JSON lines out, until its input ends.

The twin of stock-client.ts.
"""

import json
import os
import sys
import threading

import engineio
import socketio

# The library hangs up on a poll's answer of more than 16 packets (its guard for servers). A busy room has more, so a
# client that polls needs its documented setting.
engineio.payload.Payload.max_decode_packets = 10_000

printing = threading.Lock()


def report(link, kind, **details):
    with printing:
        sys.stdout.write(json.dumps({"link": link, "kind": kind, **details}) + "\n")
        sys.stdout.flush()


class InOrder(engineio.Client):
    """Handles packets in the order in which they were read.

    As it comes, the library gives each packet a thread of its own, so the order in which handlers run is the
    scheduler's. The order on the wire is what is judged here.
    """

    def _trigger_event(self, event, *args, **kwargs):
        if event == "message":
            kwargs.pop("run_async", None)
        return super()._trigger_event(event, *args, **kwargs)


class Client(socketio.Client):
    def _engineio_client_class(self):
        return InOrder


def open_link(link, client, url, transports):
    client.on("*", lambda name, *args: report(link, "event", name=name, args=args))
    client.on("disconnect", lambda reason=None: report(link, "closed", reason=str(reason)))
    try:
        client.connect(url, transports=transports, wait_timeout=10)
    except socketio.exceptions.ConnectionError as error:
        report(link, "failed", message=str(error))
        return
    report(link, "opened")
    if client.transport() == "websocket":
        report(link, "upgraded")


def main():
    clients = {}
    for line in sys.stdin:
        command = json.loads(line)
        link = command["link"]
        if command["op"] == "open":
            client = clients[link] = Client(reconnection=False, handle_sigint=False)
            threading.Thread(
                target=open_link, args=(link, client, command["url"], command["transports"]), daemon=True
            ).start()
        elif command["op"] == "close":
            threading.Thread(target=clients[link].disconnect, daemon=True).start()
        else:
            ack = command["ack"]
            answered = None
            if ack is not None:
                answered = lambda *args, link=link, ack=ack: report(link, "ack", ack=ack, args=args)
            try:
                clients[link].emit(command["event"], tuple(command["args"]), callback=answered)
            except socketio.exceptions.SocketIOError:
                # The connection is gone, which its "closed" report says.
                pass
    os._exit(0)


main()
