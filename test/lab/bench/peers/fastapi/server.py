"""A peer of the bench: FastAPI with python-socketio on uvicorn, each message a transaction of its own, fsynced before it is
delivered and acked."""

import asyncio
import json
import os
import socket
import sqlite3
import sys
import time
import unicodedata
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Annotated

import socketio
import uvicorn
from fastapi import FastAPI
from pydantic import AfterValidator, AwareDatetime, BaseModel, ValidationError

MESSAGE_BYTES_MAX = 16_384
NAME_CODE_POINTS_MAX = 128
SEQ_BITS = 32
BACKLOG = 2_048
# Where the transaction runs. Off the loop is what the framework's users are told to do; on it is faster on a fast disk.
ON_LOOP = "--store-in-thread" not in sys.argv


def name(text: str) -> str:
    if not 1 <= len(text) <= NAME_CODE_POINTS_MAX or not text.strip() or text in (".", ".."):
        raise ValueError("not a name")
    if not text.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise ValueError("not a name")
    return text


def sendable(text: str) -> str:
    if not text.strip() or "\0" in text or len(text.encode()) > MESSAGE_BYTES_MAX:
        raise ValueError("not a message")
    return text


Name = Annotated[str, AfterValidator(name)]


class Join(BaseModel):
    room: Name


class Send(BaseModel):
    room: Name
    user_id: Name
    message: Annotated[str, AfterValidator(sendable)]
    timestamp: AwareDatetime | None = None
    client_id: Name | None = None


class Store:
    def __init__(self, path: str):
        # Autocommit: transactions begin and end where they are written.
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")

    def append(self, send: Send) -> dict:
        """On disk when it returns."""
        received_at = time.time_ns() // 1_000_000
        timestamp = received_at if send.timestamp is None else int(send.timestamp.timestamp() * 1_000)
        message_id = str(uuid.uuid4())
        execute = self.db.execute
        execute("BEGIN IMMEDIATE")
        try:
            room = execute("SELECT id, seq FROM rooms WHERE name = ?", (send.room,)).fetchone()
            if room is None:
                added = execute("INSERT INTO rooms (name, seq, last_received_at) VALUES (?, 0, 0)", (send.room,))
                room = (added.lastrowid, 0)
            room_id, seq = room[0], room[1] + 1
            execute(
                "INSERT INTO messages (place, id, user_id, client_id, text, timestamp, received_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (room_id << SEQ_BITS) | seq,
                    message_id,
                    send.user_id,
                    send.client_id,
                    send.message,
                    timestamp,
                    received_at,
                ),
            )
            execute("UPDATE rooms SET seq = ?, last_received_at = ? WHERE id = ?", (seq, received_at, room_id))
            execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                execute("ROLLBACK")
            raise
        return {
            "id": message_id,
            "room": send.room,
            "seq": seq,
            "user_id": send.user_id,
            "message": send.message,
            "timestamp": iso(timestamp),
            "received_at": iso(received_at),
        }


def iso(millis: int) -> str:
    at = datetime.fromtimestamp(millis / 1_000, timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refusal(code: str) -> dict:
    return {"ok": False, "error": {"code": code}}


host = os.environ.get("HOST", "127.0.0.1")
listener = socket.create_server((host, int(os.environ.get("PORT", "0"))), backlog=BACKLOG)
store = Store(os.environ["SQLITE_PATH"])
# One thread, so that messages are numbered in the order in which they came.
writer = ThreadPoolExecutor(max_workers=1)
sio = socketio.AsyncServer(async_mode="asgi")


@sio.event
async def join_room(sid, payload):
    try:
        room = Join.model_validate(payload).room
    except ValidationError:
        return refusal("invalid_payload")
    await sio.enter_room(sid, room)
    return {"ok": True, "room": room}


@sio.event
async def send_message(sid, payload):
    try:
        send = Send.model_validate(payload)
    except ValidationError:
        return refusal("invalid_payload")
    if send.room not in sio.rooms(sid):
        return refusal("not_in_room")
    if ON_LOOP:
        message = store.append(send)
    else:
        message = await asyncio.get_running_loop().run_in_executor(writer, store.append, send)
    await sio.emit("receive_message", message, room=message["room"])
    return {
        "ok": True,
        "id": message["id"],
        "room": message["room"],
        "seq": message["seq"],
        "timestamp": message["timestamp"],
        "received_at": message["received_at"],
        "duplicate": False,
    }


@asynccontextmanager
async def lifespan(_: FastAPI):
    url = f"http://{host}:{listener.getsockname()[1]}"
    print(json.dumps({"event": "listening", "url": url}, separators=(",", ":")), flush=True)
    yield
    writer.shutdown()
    store.db.close()


api = FastAPI(lifespan=lifespan)


@api.get("/")
async def health():
    return {"status": "ok"}


app = socketio.ASGIApp(sio, api)
config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", timeout_graceful_shutdown=1)
uvicorn.Server(config).run(sockets=[listener])
