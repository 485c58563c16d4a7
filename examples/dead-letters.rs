//! An operator's tool lists, counts, replays and discards the dead letters of a group, and resumes a halted one. It links no
//! event types, so one build of it serves every stream.
//!
//! `REDIS_URL=redis://localhost cargo run --example dead-letters -- list trades risk --cause handler`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_runtime::broker::Redis;
use streams_runtime::{Admin, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters};

const USAGE: &str = "\
usage: dead-letters <command> <stream> <group> [ids] [filter]

commands:
  list     a line for each letter, oldest first
  count    how many there are
  show     everything of these letters
  replay   have them handled again, by this group alone; they come after whatever followed them in the stream
  waiting  those that were sent and are not handled yet
  discard  remove them for good
  resume   let a halted group go on where it is

`trades` stands for every partition of the stream, `trades.3` for that one. `replay` and `discard` want ids as `list` shows
them, or a filter, or `--all`.

filter, of which all must hold:
  --cause WORD      handler, panic, timeout, permanent, decode, argument, asked, crash
  --consumer NAME   the function that gave up
  --event NAME      the event's name, such as OrderPlaced
  --reason TEXT     the reason has this text in it
  --partition N
  --older AGE       given up on longer ago than this, such as 2h
  --newer AGE       given up on within this time
  --limit N         list, show and waiting: at most so many; 100 unless said

The server is at REDIS_URL; STREAMS_NAMESPACE stands before the name of the stream.
";

type Problem = Box<dyn std::error::Error>;

/// The command line.
struct Asked {
    command: String,
    stream: String,
    group: String,
    ids: Vec<DeadLetterId>,
    filter: DeadLetterFilter,
    /// Whether anything said which letters are meant, be it all of them.
    chosen: bool,
    limit: usize,
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<Asked, Problem> {
    let mut args = args.into_iter();
    let mut word = |what: &str| args.next().ok_or_else(|| format!("the {what} is missing"));
    let (command, stream, group) = (word("command")?, word("stream")?, word("group")?);
    let (mut ids, mut filter, mut chosen, mut limit) = (Vec::new(), DeadLetterFilter::all(), false, 100);
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            ids.push(arg.parse()?);
            continue;
        }
        if arg == "--all" {
            chosen = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("`{arg}` needs a value"))?;
        chosen |= arg != "--limit";
        filter = match arg.as_str() {
            "--cause" => filter.cause(value.parse()?),
            "--consumer" => filter.consumer(value),
            "--event" => filter.event(value),
            "--reason" => filter.reason(value),
            "--partition" => filter.partition(value.parse().map_err(|_| format!("`{value}` is no partition"))?),
            "--older" => filter.older_than(age(&value)?),
            "--newer" => filter.newer_than(age(&value)?),
            "--limit" => {
                limit = value.parse().map_err(|_| format!("`{value}` is no number of letters"))?;
                filter
            }
            _ => return Err(format!("`{arg}` is no option").into()),
        };
    }
    if chosen && !ids.is_empty() {
        return Err("say ids or a filter, not both".into());
    }
    Ok(Asked { command, stream, group, ids, filter, chosen, limit })
}

/// A number and its unit, such as `90s`, `5m`, `2h` or `30d`.
fn age(text: &str) -> Result<Duration, Problem> {
    let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).filter(|age| *age > 0);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is no age; expected one such as `90s`, `5m`, `2h` or `30d`").into())
}

async fn run(asked: Asked) -> Result<(), Problem> {
    let url = std::env::var("REDIS_URL").map_err(|_| "REDIS_URL is not set; it says where the server is")?;
    let namespace = std::env::var("STREAMS_NAMESPACE").ok();
    let admin = Admin::on(Arc::new(Redis::open(&url)?), namespace.as_deref())?;
    let (stream, group) = (&asked.stream, &asked.group);
    if asked.command == "resume" {
        for partition in admin.resume(stream, group).await? {
            println!("resumed {partition}: a halted process goes on within some seconds");
        }
        return Ok(());
    }
    let letters = admin.dead_letters(stream, group).await?;
    match asked.command.as_str() {
        "list" => chosen(&letters, &asked).await?.iter().for_each(line),
        "show" => chosen(&letters, &asked).await?.iter().for_each(show),
        "waiting" => letters.replaying(asked.limit).await?.iter().for_each(line),
        "count" => println!("{}", letters.count(&asked.filter).await?),
        "replay" | "discard" if asked.ids.is_empty() && !asked.chosen => {
            return Err(
                format!("which letters is `{}` meant for? give ids, a filter, or `--all`", asked.command).into()
            );
        }
        "replay" => {
            let replayed = match asked.ids.as_slice() {
                [] => letters.replay_all(&asked.filter).await?,
                ids => letters.replay(ids).await?,
            };
            println!("{} sent to be handled again", replayed.moved);
            replayed.missing.iter().for_each(|id| println!("{id} is not there"));
        }
        "discard" => {
            let discarded = match asked.ids.as_slice() {
                [] => letters.discard_all(&asked.filter).await?,
                ids => letters.discard(ids).await?,
            };
            println!("{discarded} discarded");
            if !asked.ids.is_empty() && discarded < asked.ids.len() as u64 {
                println!("{} were not there", asked.ids.len() as u64 - discarded);
            }
        }
        other => return Err(format!("`{other}` is no command").into()),
    }
    Ok(())
}

/// The letters that are asked for.
async fn chosen(letters: &DeadLetters, asked: &Asked) -> Result<Vec<DeadLetter>, Problem> {
    if asked.ids.is_empty() {
        return Ok(letters.find(&asked.filter, None, asked.limit).await?);
    }
    let mut found = Vec::new();
    for id in &asked.ids {
        match letters.get(*id).await? {
            Some(letter) => found.push(letter),
            None => println!("{id} is not there"),
        }
    }
    Ok(found)
}

/// The id, then what happened to what.
fn line(letter: &DeadLetter) {
    println!("{}  {}  {}  {}", letter.id(), letter.event_name(), letter.cause(), letter.reason());
}

fn show(letter: &DeadLetter) {
    let original = letter.original();
    let age = SystemTime::now().duration_since(letter.time()).unwrap_or_default().as_secs();
    println!("letter      {} ({age} s ago)", letter.id());
    println!("event       {} at {} {}", original.event_id(), letter.stream(), original.id);
    println!("consumer    {}", letter.consumer());
    println!("cause       {} at attempt {}", letter.cause(), letter.attempts());
    println!("replays     {}", letter.replays());
    println!("reason      {}", letter.reason());
    for (name, value) in original.fields() {
        let name = String::from_utf8_lossy(name);
        match name.as_ref() {
            "payload" => println!("payload     {}", letter.payload_text(4_000)),
            _ => println!("field       {name}: {}", String::from_utf8_lossy(value).escape_debug()),
        }
    }
    println!();
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let asked = match parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(asked).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
