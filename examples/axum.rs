//! An axum server as a worker: `croupier run --listen 127.0.0.1:8000 -- target/release/examples/axum`, or alone.
//! Its graceful shutdown follows the primary's: `croupier reload` and Ctrl-C on croupier end it cleanly.

use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use croupier::worker::axum::Address;
use croupier::worker::tokio::Listener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    // Under a primary: dealt connections. Alone: binds the address itself. The same program, unchanged.
    let listener = Listener::bind(&address).await?;
    println!("listening on {}", listener.get_ref().address());
    let ended = listener.ended(); // taken before the listener moves into axum
    let app = Router::new().route("/", get(hello)).route("/slow", get(slow));
    axum::serve(listener, app.into_make_service_with_connect_info::<Address>()).with_graceful_shutdown(ended).await
}

async fn hello(ConnectInfo(Address(client)): ConnectInfo<Address>) -> String {
    let client = client.map_or_else(|| "somebody".into(), |address| address.to_string());
    format!("hello {client} from process {}\n", std::process::id())
}

/// A request that is still in progress when a reload comes is answered all the same.
async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(1)).await;
    "done\n"
}
