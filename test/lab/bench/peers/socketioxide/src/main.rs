//! A peer of the bench: socketioxide on axum, each message a transaction of its own, fsynced before it is delivered and acked.

use std::{env, error::Error, marker, sync::Arc};

use axum::{Json, Router, routing::get};
use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use socketioxide::{
    SocketIo,
    extract::{AckSender, SocketRef, State, TryData},
};
use tokio::{net::TcpListener, signal::unix, sync::Mutex};
use uuid::Uuid;

const MESSAGE_BYTES_MAX: usize = 16_384;
const NAME_CODE_POINTS_MAX: usize = 128;
const SEQ_BITS: i64 = 32;
/// Packets that may wait for one connection. The library's default is 128, beyond which it drops them.
const WAITING_PACKETS_MAX: usize = 65_536;

#[derive(Deserialize)]
struct Join {
    room: String,
}

#[derive(Deserialize)]
struct Send {
    room: String,
    user_id: String,
    message: String,
    timestamp: Option<DateTime<Utc>>,
    client_id: Option<String>,
}

#[derive(Serialize)]
struct Message {
    id: String,
    room: String,
    seq: i64,
    user_id: String,
    message: String,
    timestamp: String,
    received_at: String,
}

#[derive(Serialize)]
struct Sent<'a> {
    ok: bool,
    id: &'a str,
    room: &'a str,
    seq: i64,
    timestamp: &'a str,
    received_at: &'a str,
    duplicate: bool,
}

struct Store {
    db: Connection,
}

impl Store {
    fn open(path: &str) -> rusqlite::Result<Self> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self { db })
    }

    /// On disk when it returns.
    fn append(&mut self, send: Send) -> rusqlite::Result<Message> {
        let received_at = Utc::now();
        let timestamp = send.timestamp.unwrap_or(received_at);
        let id = Uuid::now_v7().to_string();
        let transaction = self
            .db
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let room: Option<(i64, i64)> = transaction
            .prepare_cached("SELECT id, seq FROM rooms WHERE name = ?1")?
            .query_row([&send.room], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (room_id, last) = match room {
            Some(known) => known,
            None => {
                transaction
                    .prepare_cached(
                        "INSERT INTO rooms (name, seq, last_received_at) VALUES (?1, 0, 0)",
                    )?
                    .execute([&send.room])?;
                (transaction.last_insert_rowid(), 0)
            }
        };
        let seq = last + 1;
        transaction
            .prepare_cached(
                "INSERT INTO messages (place, id, user_id, client_id, text, timestamp, received_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                (room_id << SEQ_BITS) | seq,
                id,
                send.user_id,
                send.client_id,
                send.message,
                timestamp.timestamp_millis(),
                received_at.timestamp_millis(),
            ])?;
        transaction
            .prepare_cached("UPDATE rooms SET seq = ?2, last_received_at = ?3 WHERE id = ?1")?
            .execute(params![room_id, seq, received_at.timestamp_millis()])?;
        transaction.commit()?;
        Ok(Message {
            id,
            room: send.room,
            seq,
            user_id: send.user_id,
            message: send.message,
            timestamp: iso(timestamp),
            received_at: iso(received_at),
        })
    }
}

fn iso(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn is_name(text: &str) -> bool {
    text.chars().count() <= NAME_CODE_POINTS_MAX
        && !text.trim().is_empty()
        && !text.chars().any(char::is_control)
        && text != "."
        && text != ".."
}

fn is_sendable(send: &Send) -> bool {
    is_name(&send.room)
        && is_name(&send.user_id)
        && send.client_id.as_deref().is_none_or(is_name)
        && send.message.len() <= MESSAGE_BYTES_MAX
        && !send.message.trim().is_empty()
        && !send.message.contains('\0')
}

fn refusal(code: &str) -> Value {
    json!({ "ok": false, "error": { "code": code } })
}

async fn join_room(socket: SocketRef, TryData(join): TryData<Join>, ack: AckSender) {
    match join {
        Ok(Join { room }) if is_name(&room) => {
            let answer = json!({ "ok": true, "room": room });
            socket.join(room);
            ack.send(&answer).ok();
        }
        _ => {
            ack.send(&refusal("invalid_payload")).ok();
        }
    }
}

async fn send_message(
    socket: SocketRef,
    TryData(send): TryData<Send>,
    ack: AckSender,
    io: SocketIo,
    State(store): State<Arc<Mutex<Store>>>,
) {
    let send = match send {
        Ok(send) if is_sendable(&send) => send,
        _ => {
            ack.send(&refusal("invalid_payload")).ok();
            return;
        }
    };
    if !socket.rooms().iter().any(|room| *room == send.room) {
        ack.send(&refusal("not_in_room")).ok();
        return;
    }
    // Held until it is delivered, so that a room hears in the order of its numbers. The lock lets in first who came first.
    let mut store = store.lock().await;
    match store.append(send) {
        Ok(message) => {
            io.to(message.room.clone())
                .emit("receive_message", &message)
                .await
                .ok();
            ack.send(&Sent {
                ok: true,
                id: &message.id,
                room: &message.room,
                seq: message.seq,
                timestamp: &message.timestamp,
                received_at: &message.received_at,
                duplicate: false,
            })
            .ok();
        }
        Err(error) => {
            eprintln!("{error}");
            ack.send(&refusal("storage_unavailable")).ok();
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error + marker::Send + Sync>> {
    let host = env::var("HOST").unwrap_or_else(|_| "127.0.0.1".into());
    let port = env::var("PORT").unwrap_or_else(|_| "0".into());
    let store = Arc::new(Mutex::new(Store::open(&env::var("SQLITE_PATH")?)?));
    let (layer, io) = SocketIo::builder()
        .with_state(store)
        .max_buffer_size(WAITING_PACKETS_MAX)
        .build_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("join_room", join_room);
        socket.on("send_message", send_message);
    });
    let app = Router::new()
        .route("/", get(async || Json(json!({ "status": "ok" }))))
        .layer(layer);
    let listener = TcpListener::bind(format!("{host}:{port}")).await?;
    println!(
        "{}",
        json!({ "event": "listening", "url": format!("http://{}", listener.local_addr()?) })
    );
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, app) => Ok(served?),
        _ = terminate.recv() => Ok(()),
    }
}

fn main() -> Result<(), Box<dyn Error + marker::Send + Sync>> {
    if env::args().any(|argument| argument == "--sqlite-version") {
        println!("{}", rusqlite::version());
        return Ok(());
    }
    // As many threads as there are cores to run on: one, where the bench gives it one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { tokio::spawn(serve()).await })??;
    // What a connection still waits for no longer matters.
    runtime.shutdown_background();
    Ok(())
}
