//! The connection of the bare loops, and the replies that they read.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{IntoConnectionInfo, Value};

/// A connection with the settings that suit a bare loop best.
pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    let info = url.into_connection_info().expect("a URL");
    let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let client = redis::Client::open(info).expect("a client");
    client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
}

/// The entries of a reply of XREAD or XREADGROUP on one key: id and the last field's value, taken apart by move.
pub(crate) fn entries(reply: Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = match reply {
        Value::Nil => return Vec::new(),
        Value::Map(mut streams) => streams.pop().map(|(_, list)| list),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut pair)) => pair.pop(),
            _ => None,
        },
        _ => None,
    };
    let Some(Value::Array(list)) = list else { panic!("no reply of XREAD") };
    list.into_iter()
        .map(|entry| {
            let Value::Array(mut entry) = entry else { panic!("no entry") };
            let (Some(Value::Array(mut fields)), Some(Value::BulkString(id))) = (entry.pop(), entry.pop()) else {
                panic!("no entry")
            };
            let Some(Value::BulkString(payload)) = fields.pop() else { panic!("no payload") };
            (id, payload)
        })
        .collect()
}
