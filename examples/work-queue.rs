//! A work queue gives pictures to any free slot, in no order. A slow picture and a failing one hold up no other.
//!
//! ```sh
//! cargo run --example work-queue                               # embedded broker, no server
//! REDIS_URL=redis://127.0.0.1/ cargo run --example work-queue  # start several of them: they share the work
//! ```

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use streams_runtime::{App, BoxError, Message, State, consumer, stream_event};

/// A picture that was uploaded. It has no key: nothing depends on which comes first.
#[stream_event(stream = "uploads")]
#[derive(Debug, Clone)]
struct Uploaded {
    picture: String,
    megapixels: u64,
}

/// Makes a thumbnail. Four run at once in each process that is started; whoever is free has the next picture.
///
/// A picture that fails waits for its next attempt on the server, in nobody's hand, and any process may have it then.
#[consumer(group = "thumbnails", delivery = "queue", concurrency = 4, backoff = "200ms")]
async fn make(upload: &Message<Uploaded>, desk: State<Desk>) -> Result<(), BoxError> {
    let Uploaded { picture, megapixels } = &upload.event;
    tokio::time::sleep(Duration::from_millis(20 * megapixels)).await;
    if picture.ends_with(".raw") && upload.attempt() == 1 {
        return Err("the converter is not ready yet".into());
    }
    desk.done(picture, upload.attempt());
    Ok(())
}

/// The pictures, in the order in which they were made.
#[derive(Debug, Clone)]
struct Desk {
    since: Instant,
    made: Arc<Mutex<Vec<String>>>,
}

impl Desk {
    fn done(&self, picture: &str, attempt: u32) {
        let after = self.since.elapsed().as_millis();
        println!("  after {after:>4} ms: {picture} at attempt {attempt}");
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(picture.to_owned());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // No subscriber here: the attempt that fails would be a WARN line between what this program prints.
    let desk = Desk { since: Instant::now(), made: Arc::default() };
    let app = App::linked().state(desk.clone()).from_environment().start().await?;

    println!("the panorama comes first and takes longest, `dune.raw` fails once:");
    app.publisher().publish(&Uploaded { picture: "panorama.jpg".to_owned(), megapixels: 60 }).await?;
    for picture in ["dune.raw", "lake.jpg", "moor.jpg", "peak.jpg", "reef.jpg", "wood.jpg"] {
        app.publisher().publish(&Uploaded { picture: picture.to_owned(), megapixels: 2 }).await?;
    }
    app.settled().await?;
    let made = desk.made.lock().unwrap_or_else(PoisonError::into_inner).len();
    println!("{made} pictures made here; nobody waited for the panorama");
    let stopped = app.shutdown().await;
    println!("stopped: {stopped:?}");
    Ok(())
}
