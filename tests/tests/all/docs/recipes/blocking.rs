//! The recipe of blocking work.

use std::sync::Arc;

use streams_runtime::{BoxError, State, consumer, stream_event};
use tokio::sync::Semaphore;

/// A picture has come in.
#[stream_event(stream = "pictures", lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Uploaded {
    pub path: String,
}

/// How many pictures are worked on at once: as many as there are cores.
#[derive(Clone)]
struct Cores(Arc<Semaphore>);

#[consumer(group = "thumbnails", delivery = "queue", concurrency = 64, timeout = "5m")]
async fn shrink(uploaded: Uploaded, State(cores): State<Cores>) -> Result<(), BoxError> {
    let permit = cores.0.acquire_owned().await?;
    let shrunk = tokio::task::spawn_blocking(move || {
        // The permit goes with the work, which goes on where the attempt has timed out.
        let _permit = permit;
        thumbnail(&uploaded.path)
    });
    shrunk.await?
}

/// Computes for seconds, or calls a library that waits.
fn thumbnail(path: &str) -> Result<(), BoxError> {
    if path.is_empty() { Err("there is no path".into()) } else { Ok(()) }
}

#[tokio::test]
async fn a_picture_is_shrunk_beside_the_others() -> Result<(), BoxError> {
    use streams_runtime::broker::Embedded;
    use streams_runtime::{App, consumers};

    let cores = Cores(Arc::new(Semaphore::new(2)));
    let app = App::with(consumers![shrink]).state(cores.clone()).broker(Arc::new(Embedded::new())).start().await?;
    app.publisher().publish_all((0..20).map(|number| Uploaded { path: format!("{number}.png") })).await;
    app.settled().await?;
    assert_eq!((app.status().groups[0].handled, cores.0.available_permits()), (20, 2));
    let _ = app.shutdown().await;
    Ok(())
}
