//! `streams top`: the groups live, with sparklines; one group with its processes and partitions, its dead letters, its last events.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar::NINE_LEVELS;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};
use streams_runtime::broker::{BrokerError, Log};
use streams_runtime::keys::StreamKey;
use streams_runtime::{DeadLetterFilter, EntryId, GroupView, Overview};
use tokio::sync::mpsc;

use super::info::advice;
use super::ls::{Rates, now, tone, why};
use crate::confirm::count;
use crate::connect::Server;
use crate::output::Tone;
use crate::payload::{self, Redact};
use crate::problem::Problem;
use crate::text::plain;
use crate::when::{self, short};

/// How often the server is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How many looks a sparkline shows.
const LOOKS: usize = 20;
/// How many lines say why the selected group does not go on.
const WHY: u16 = 3;
/// How many dead letters and events are shown.
const SHOWN: usize = 50;

/// The groups live in the terminal: lag, rates, dead letters; enter: one group, d: its dead letters, t: its last events
#[derive(Debug, clap::Args)]
pub(crate) struct Top {}

impl Top {
    pub(crate) async fn run(self, server: &Server, redact: &Redact) -> Result<(), Problem> {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return Err(Problem::usage("top needs a terminal; `streams groups` prints the same once"));
        }
        // The first look says what is wrong while the terminal is still as it was.
        let first = server.overview().await?;
        let mut screen = Screen::new(server.namespace.clone());
        screen.heard(Ok(first));
        let (mut looks, mut keys) = (looks(server)?, keys());
        let mut terminal = ratatui::try_init()?;
        let ended = loop {
            if let Err(error) = terminal.draw(|frame| screen.draw(frame)) {
                break Err(Problem::from(error));
            }
            tokio::select! {
                look = looks.recv() => match look {
                    Some(look) => screen.heard(look),
                    None => break Ok(()),
                },
                key = keys.recv() => match key.map(|key| screen.press(key)) {
                    None | Some(Wish::Quit) => break Ok(()),
                    Some(Wish::Nothing) => {}
                    Some(Wish::Dead(stream, group)) => screen.page = Page::Text(dead(server, &stream, &group).await),
                    Some(Wish::Tail(stream)) => screen.page = Page::Text(tail(server, &stream, redact).await),
                },
            }
        };
        ratatui::restore();
        ended
    }
}

/// Looks at the server again and again.
fn looks(server: &Server) -> Result<mpsc::Receiver<Result<Overview, BrokerError>>, Problem> {
    let inspector = server.inspector()?;
    let (send, looks) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            if send.send(inspector.overview().await).await.is_err() {
                return;
            }
        }
    });
    Ok(looks)
}

/// The keys that are pressed; an empty one when the terminal changes its size.
fn keys() -> mpsc::Receiver<KeyCode> {
    let (send, keys) = mpsc::channel(16);
    // The thread waits for a key when the program ends, and ends with it.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let code = match event {
                Event::Key(key) if key.kind == KeyEventKind::Release => continue,
                Event::Key(key) if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) => {
                    KeyCode::Char('q')
                }
                Event::Key(key) => key.code,
                Event::Resize(..) => KeyCode::Null,
                _ => continue,
            };
            if send.blocking_send(code).is_err() {
                return;
            }
        }
    });
    keys
}

/// The act that a key asks for beyond the screen.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
    Dead(String, String),
    Tail(String),
}

#[derive(Debug)]
enum Page {
    Groups,
    Group,
    Text(Vec<String>),
}

/// The state of the screen.
struct Screen {
    namespace: Option<String>,
    before: Option<Overview>,
    now: Option<Overview>,
    /// The events per second out of each group, the latest last.
    history: BTreeMap<(String, String), VecDeque<u64>>,
    /// Why the last look failed.
    trouble: Option<String>,
    table: TableState,
    page: Page,
    scroll: u16,
}

impl Screen {
    fn new(namespace: Option<String>) -> Self {
        let table = TableState::new().with_selected(0);
        let history = BTreeMap::new();
        Self { namespace, before: None, now: None, history, trouble: None, table, page: Page::Groups, scroll: 0 }
    }

    fn heard(&mut self, look: Result<Overview, BrokerError>) {
        match look {
            Err(error) => self.trouble = Some(error.to_string()),
            Ok(look) => {
                self.trouble = None;
                let selected = self.selected();
                self.before = self.now.replace(look);
                self.follow(selected.as_ref());
                let rates: Vec<_> = self.groups().iter().map(|(group, rates)| (key(group), rates.outgoing)).collect();
                // Groups that are gone take their history with them.
                let mut old = std::mem::take(&mut self.history);
                for (key, rate) in rates {
                    let mut history = old.remove(&key).unwrap_or_default();
                    history.push_back(rate.round() as u64);
                    history.drain(..history.len().saturating_sub(LOOKS));
                    self.history.insert(key, history);
                }
            }
        }
    }

    /// Keeps the group selected when rows change their places. The page of one that is gone ends.
    fn follow(&mut self, selected: Option<&GroupView>) {
        let Some(selected) = selected else { return };
        match self.groups().iter().position(|(group, _)| key(group) == key(selected)) {
            Some(place) => self.table.select(Some(place)),
            None if matches!(self.page, Page::Group) => self.show(Page::Groups),
            None => {}
        }
    }

    /// The groups with the worst first, by their names within a state, so that rows stay where they are.
    fn groups(&self) -> Vec<(GroupView, Rates)> {
        let Some(now) = &self.now else { return Vec::new() };
        let before = self.before.as_ref().unwrap_or(now);
        let all = now.streams.iter().flat_map(|stream| stream.groups.iter().map(move |group| (stream, group)));
        let mut groups: Vec<_> =
            all.map(|(stream, group)| (group.clone(), Rates::of(before, now, stream, group))).collect();
        groups.sort_by_key(|(group, _)| group.condition());
        groups
    }

    fn selected(&self) -> Option<GroupView> {
        self.groups().into_iter().nth(self.table.selected()?).map(|(group, _)| group)
    }

    fn press(&mut self, key: KeyCode) -> Wish {
        let last = self.groups().len().saturating_sub(1);
        let at = self.table.selected().unwrap_or_default();
        let is_list = matches!(self.page, Page::Groups);
        match key {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc | KeyCode::Backspace if is_list => return Wish::Quit,
            KeyCode::Esc | KeyCode::Backspace => self.show(Page::Groups),
            KeyCode::Down | KeyCode::Char('j') if is_list => self.table.select(Some((at + 1).min(last))),
            KeyCode::Up | KeyCode::Char('k') if is_list => self.table.select(Some(at.saturating_sub(1))),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Home if is_list => self.table.select(Some(0)),
            KeyCode::End if is_list => self.table.select(Some(last)),
            KeyCode::Enter => self.show(Page::Group),
            KeyCode::Char(letter @ ('d' | 't')) => {
                self.scroll = 0;
                return match (letter, self.selected()) {
                    ('d', Some(group)) => Wish::Dead(group.stream, group.name),
                    (_, Some(group)) => Wish::Tail(group.stream),
                    _ => Wish::Nothing,
                };
            }
            _ => {}
        }
        Wish::Nothing
    }

    fn show(&mut self, page: Page) {
        (self.page, self.scroll) = (page, 0);
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let areas = Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]);
        let [top, middle, bottom] = areas.areas(frame.area());
        frame.render_widget(self.headline(), top);
        let keys = match &self.page {
            Page::Groups => {
                self.draw_groups(frame, middle);
                "up down  enter group  d dead letters  t last events  q quit"
            }
            Page::Group => {
                let lines = self.selected().map(|group| about(&group)).unwrap_or_default();
                self.draw_lines(frame, middle, lines);
                "up down scroll  d dead letters  t last events  esc back  q quit"
            }
            Page::Text(lines) => {
                let lines = lines.iter().map(|line| Line::raw(line.clone())).collect();
                self.draw_lines(frame, middle, lines);
                "up down scroll  enter group  esc back  q quit"
            }
        };
        frame.render_widget(Line::styled(keys, Style::new().add_modifier(Modifier::DIM)), bottom);
    }

    fn headline(&self) -> Line<'static> {
        if let Some(trouble) = &self.trouble {
            return Line::styled(plain(trouble), Style::new().fg(Color::Red));
        }
        let groups = self.groups();
        let streams = self.now.as_ref().map_or(0, |now| now.streams.len());
        let lag: u64 = groups.iter().filter_map(|(group, _)| group.lag()).sum();
        let dead: u64 = groups.iter().map(|(group, _)| group.dead()).sum();
        let time = self.now.as_ref().map(|overview| when::time(now(overview))).unwrap_or_default();
        let place = self.namespace.as_ref().map(|space| format!("  namespace {space}")).unwrap_or_default();
        let text = format!(
            "streams  {time}{place}  {}, {}, lag {lag}, {}",
            count(streams as u64, "stream"),
            count(groups.len() as u64, "group"),
            count(dead, "dead letter")
        );
        Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
    }

    fn draw_groups(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let head = ["STREAM", "GROUP", "STATE", "LAG", "OLDEST", "IN/S", "OUT/S", "", "DEAD", "PROCESSES", "WHY"];
        let rows = self.groups().into_iter().map(|(group, rates)| {
            let history = self.history.get(&key(&group)).map(sparkline).unwrap_or_default();
            let age = group.age();
            let lag = group.lag().map_or_else(|| "?".to_owned(), |lag| lag.to_string());
            Row::new([
                Cell::new(plain(&group.stream)),
                Cell::new(plain(&group.name)),
                Cell::new(Span::styled(group.condition().to_string(), colour(tone(group.condition())))),
                Cell::new(lag),
                Cell::new(if age.is_zero() { "-".to_owned() } else { short(age) }),
                Cell::new(format!("{:.0}", rates.incoming)),
                Cell::new(format!("{:.0}", rates.outgoing)),
                Cell::new(history),
                Cell::new(Span::styled(
                    group.dead().to_string(),
                    colour(if group.dead() > 0 { Tone::Warn } else { Tone::Plain }),
                )),
                Cell::new(group.living().to_string()),
                Cell::new(plain(&why(&group))),
            ])
        });
        let rows: Vec<_> = rows.collect();
        let widths = [
            Constraint::Min(14),
            Constraint::Min(12),
            Constraint::Min(10),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(LOOKS as u16),
            Constraint::Length(6),
            Constraint::Length(9),
            Constraint::Fill(3),
        ];
        let table = Table::new(rows, widths)
            .header(Row::new(head).style(Style::new().add_modifier(Modifier::DIM)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        // The column is narrow, so the selected group says why in lines of its own.
        let why = self.selected().map(|group| plain(&why(&group))).unwrap_or_default();
        let [rows, lines] = Layout::vertical([Constraint::Min(1), Constraint::Length(WHY)]).areas(area);
        frame.render_stateful_widget(table, rows, &mut self.table);
        self.draw_lines(frame, lines, vec![Line::raw(why)]);
    }

    fn draw_lines(&self, frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((self.scroll, 0)), area);
    }
}

fn key(group: &GroupView) -> (String, String) {
    (group.stream.clone(), group.name.clone())
}

fn colour(tone: Tone) -> Style {
    // As everywhere in the tool.
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return Style::new();
    }
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
    }
}

/// Figures as a row of bars.
fn sparkline(history: &VecDeque<u64>) -> String {
    let bars = [
        NINE_LEVELS.empty,
        NINE_LEVELS.one_eighth,
        NINE_LEVELS.one_quarter,
        NINE_LEVELS.three_eighths,
        NINE_LEVELS.half,
        NINE_LEVELS.five_eighths,
        NINE_LEVELS.three_quarters,
        NINE_LEVELS.seven_eighths,
        NINE_LEVELS.full,
    ];
    let most = history.iter().max().copied().unwrap_or_default().max(1);
    let bar = |figure: &u64| bars[((*figure as f64 / most as f64 * 8.0).ceil() as usize).min(8)];
    history.iter().map(bar).collect()
}

/// A group with its processes and partitions.
fn about(group: &GroupView) -> Vec<Line<'static>> {
    let condition = group.condition();
    let title = format!("group {} on {}: ", group.name, group.stream);
    let mut lines = vec![
        Line::from(vec![Span::raw(plain(&title)), Span::styled(condition.to_string(), colour(tone(condition)))]),
        Line::raw(""),
    ];
    for member in &group.members {
        let owns: Vec<_> = member.partitions.iter().map(ToString::to_string).collect();
        let silent = member.silent.map_or_else(|| "-".to_owned(), short);
        let text = format!("process {}  owns {}  silent for {silent}  {}", member.name, owns.join(","), member.build);
        let style = if member.lives() { Style::new() } else { colour(Tone::Bad) };
        lines.push(Line::styled(plain(&text), style));
    }
    lines.push(Line::raw(""));
    for place in &group.places {
        let owner = place.owner.clone().unwrap_or_else(|| "-".to_owned());
        let lag = place.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string());
        let text = format!(
            "partition {}  owner {owner}  checkpoint {}  lag {lag}  oldest {}  dead {}",
            place.partition,
            place.checkpoint,
            short(place.age),
            place.dead
        );
        lines.push(Line::raw(plain(&text)));
    }
    for advice in advice(group) {
        lines.push(Line::raw(""));
        lines.extend(advice.lines().map(|line| Line::raw(plain(line))));
    }
    lines
}

/// The oldest dead letters of a group.
async fn dead(server: &Server, stream: &str, group: &str) -> Vec<String> {
    let found = async {
        let letters = server.admin()?.dead_letters(stream, group).await?;
        Ok::<_, Problem>(letters.find(&DeadLetterFilter::all(), None, SHOWN).await?)
    };
    let mut lines = vec![format!("dead letters of {group} on {stream}, the oldest {SHOWN} at most"), String::new()];
    match found.await {
        Err(problem) => lines.push(problem.words),
        Ok(letters) if letters.is_empty() => lines.push("none".to_owned()),
        Ok(letters) => lines.extend(letters.iter().map(|letter| {
            format!("{}  {}  {}  {}", letter.id(), letter.event_name(), letter.cause(), letter.reason())
        })),
    }
    lines.iter().map(|line| plain(line)).collect()
}

/// The last events of a stream.
async fn tail(server: &Server, stream: &str, redact: &Redact) -> Vec<String> {
    let mut lines = vec![format!("the last events of {stream}"), String::new()];
    match last(server, stream, redact).await {
        Err(problem) => lines.push(plain(&problem.words)),
        Ok(found) => lines.extend(found.into_iter().map(|(_, line)| line)),
    }
    lines
}

async fn last(server: &Server, stream: &str, redact: &Redact) -> Result<Vec<(EntryId, String)>, Problem> {
    let (stream, partitions): (StreamKey, _) = server.stream(stream).await?;
    let mut found = Vec::new();
    for partition in &partitions {
        for entry in server.broker.read_back(partition, EntryId::MAX, SHOWN).await? {
            let value = payload::entry(partition.index(), &entry, redact);
            let event = plain(value["event"].as_str().unwrap_or("-"));
            let place = if stream.partitions() > 1 { format!("{}/", partition.index()) } else { String::new() };
            let line = format!("{}  {place}{}  {event}  {}", when::time(entry.id.ms), entry.id, payload::line(&value));
            found.push((entry.id, line));
        }
    }
    found.sort_by_key(|(id, _)| *id);
    found.drain(..found.len().saturating_sub(SHOWN));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use streams_runtime::broker::{Broker, Embedded, Groups};
    use streams_runtime::{Admin, Inspector, Start};

    use super::*;

    #[test]
    fn a_sparkline_is_as_high_as_its_highest_figure() {
        assert_eq!(sparkline(&VecDeque::from([0, 1, 4, 8])), " ▁▄█");
        assert_eq!(sparkline(&VecDeque::from([0, 0])), "  ");
        assert_eq!(sparkline(&VecDeque::from([u64::MAX])), "█");
    }

    #[test]
    fn keys_move_and_ask() {
        let mut screen = Screen::new(None);
        assert_eq!(screen.press(KeyCode::Char('d')), Wish::Nothing, "there is no group");
        assert_eq!(screen.press(KeyCode::Down), Wish::Nothing);
        assert_eq!(screen.table.selected(), Some(0));
        screen.press(KeyCode::Enter);
        assert!(matches!(screen.page, Page::Group));
        assert_eq!(screen.press(KeyCode::Esc), Wish::Nothing);
        assert!(matches!(screen.page, Page::Groups));
        assert_eq!(screen.press(KeyCode::Esc), Wish::Quit);
        assert_eq!(screen.press(KeyCode::Char('q')), Wish::Quit);
    }

    fn shown(screen: &mut Screen, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 12)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[tokio::test]
    async fn groups_are_shown_with_their_rates_and_one_with_its_partitions() {
        let broker = Arc::new(Embedded::new());
        let stream = StreamKey::new(None, "trades", 2);
        broker.declare(&stream).await.unwrap();
        let add = |number: usize| {
            let entries = vec![vec![(b"a".to_vec(), b"b".to_vec())]; number];
            let (broker, partition) = (Arc::clone(&broker), stream.partition(1));
            async move { broker.append(&partition, entries, None).await.unwrap() }
        };
        add(3).await;
        for index in 0..2 {
            broker.create(&stream.partition(index).group("risk"), Start::Earliest).await.unwrap();
        }
        let inspector = Inspector::on(Arc::clone(&broker) as Arc<dyn Broker>, None).unwrap();
        let mut screen = Screen::new(None);
        screen.heard(inspector.overview().await);
        add(4).await;
        screen.heard(inspector.overview().await);
        let text = shown(&mut screen, 160);
        for word in ["1 stream, 1 group, lag 7, 0 dead letters", "trades", "risk", "unattended", "no process runs it"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let narrow = shown(&mut screen, 90);
        assert!(narrow.contains("trades") && narrow.contains("risk") && narrow.contains("unattended"), "{narrow}");
        assert_eq!(screen.press(KeyCode::Char('d')), Wish::Dead("trades".to_owned(), "risk".to_owned()));
        assert_eq!(screen.press(KeyCode::Char('t')), Wish::Tail("trades".to_owned()));
        screen.press(KeyCode::Enter);
        let text = shown(&mut screen, 100);
        assert!(text.contains("partition 1  owner -  checkpoint 0-0  lag 7"), "{text}");
    }

    #[tokio::test]
    async fn the_group_that_is_looked_at_stays_when_rows_change_their_places() {
        let broker = Arc::new(Embedded::new());
        let stream = StreamKey::new(None, "trades", 1);
        broker.declare(&stream).await.unwrap();
        broker.append(&stream.partition(0), vec![vec![(b"a".to_vec(), b"b".to_vec())]], None).await.unwrap();
        let make = async |name: &str| {
            broker.create(&stream.partition(0).group(name), Start::Earliest).await.unwrap();
        };
        let inspector = Inspector::on(Arc::clone(&broker) as Arc<dyn Broker>, None).unwrap();
        let mut screen = Screen::new(None);
        make("risk").await;
        screen.heard(inspector.overview().await);
        screen.press(KeyCode::Enter);
        make("audit").await;
        screen.heard(inspector.overview().await);
        assert!(shown(&mut screen, 100).contains("group risk on trades: unattended"));
        screen.press(KeyCode::Esc);
        let rows = shown(&mut screen, 160);
        assert!(rows.find("audit").unwrap() < rows.find("risk").unwrap(), "{rows}");
        assert_eq!(screen.press(KeyCode::Char('d')), Wish::Dead("trades".to_owned(), "risk".to_owned()));
        screen.press(KeyCode::Enter);
        let admin = Admin::on(Arc::clone(&broker) as Arc<dyn Broker>, None).unwrap();
        admin.remove("trades", "risk", true).await.unwrap();
        screen.heard(inspector.overview().await);
        assert!(shown(&mut screen, 100).contains("enter group"), "the page of a group that is gone");
    }

    #[test]
    fn trouble_is_shown_until_a_look_succeeds() {
        let mut screen = Screen::new(Some("eu".to_owned()));
        screen.heard(Err(BrokerError::new(streams_runtime::broker::BrokerErrorKind::Unavailable, "away\u{1b}[2J")));
        let text = shown(&mut screen, 100);
        assert!(text.contains("away\\u{1b}[2J") && text.contains("q quit"), "{text}");
        screen.trouble = None;
        let text = shown(&mut screen, 100);
        assert!(text.contains("namespace eu  0 streams, 0 groups, lag 0, 0 dead letters"), "{text}");
    }
}
