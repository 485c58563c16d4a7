//! Questions to the broker, page by page: thousands of commands in one write would hold up everybody behind them.

use streams_core::broker::{Answer, BrokerError, Reply};

/// Asks `page` questions at a time; the answers are in the order of the questions.
pub(crate) async fn paged<'a, Q, A>(
    page: usize,
    questions: &'a [Q],
    ask: impl Fn(&'a [Q]) -> Reply<'a, Vec<Answer<A>>>,
) -> Result<Vec<Answer<A>>, BrokerError> {
    let mut answers = Vec::with_capacity(questions.len());
    for page in questions.chunks(page) {
        answers.extend(ask(page).await?);
    }
    Ok(answers)
}
