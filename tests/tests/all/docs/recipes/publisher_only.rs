//! The recipe of a program that only publishes.

use streams_runtime::{BoxError, Publisher, stream_event};

/// The weather at a station.
#[stream_event(stream = "weather", key = station, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub station: String,
    pub at: u64,
    pub celsius: f64,
}

/// Publishes what a station has sent, and says how many events are safe.
async fn import(publisher: &Publisher, measured: Vec<Measured>) -> Result<usize, BoxError> {
    // The same id at every run, so readers can tell a second run from new measurements.
    let events = measured.into_iter().map(|event| (event.clone(), format!("{}-{}", event.station, event.at)));
    let mut safe = 0;
    for answer in publisher.publish_all_with_ids(events).await {
        answer?;
        safe += 1;
    }
    Ok(safe)
}

async fn program(measured: Vec<Measured>) -> Result<(), BoxError> {
    let publisher = Publisher::connect(&std::env::var("REDIS_URL")?).await?;
    println!("{} events are in the stream", import(&publisher, measured).await?);
    Ok(())
}

#[tokio::test]
async fn a_second_run_has_the_same_ids() -> Result<(), BoxError> {
    let publisher = Publisher::test();
    let measured = Measured { station: "pole".into(), at: 1_767_323_045, celsius: -41.5 };
    assert_eq!(import(&publisher, vec![measured.clone(), measured.clone()]).await?, 2);
    assert_eq!(publisher.published::<Measured>().await?, [measured.clone(), measured]);
    assert_eq!(publisher.last::<Measured>().await?.unwrap().event_id().as_str(), "pole-1767323045");
    Ok(())
}
