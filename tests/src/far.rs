//! A server that is far away: everything that passes between it and a client is on its way for some time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The port that leads to a local one with this round trip. It lives as long as the program.
///
/// # Panics
/// When no port is free.
pub fn far(port: u16, round_trip: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let over = listener.local_addr().expect("the port's address").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            let ends = (client.try_clone(), server.try_clone());
            let (Ok(client_end), Ok(server_end)) = ends else { continue };
            carry(client, server_end, round_trip / 2);
            carry(server, client_end, round_trip / 2);
        }
    });
    over
}

/// Carries bytes one way, as many at a time as there are.
fn carry(mut from: TcpStream, mut to: TcpStream, way: Duration) {
    let _ = to.set_nodelay(true);
    let (send, under_way) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if send.send((Instant::now() + way, bytes[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in under_way {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
