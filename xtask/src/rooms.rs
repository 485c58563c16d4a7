//! Draws the rooms of the runtime from its imports, and compares them with the table in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::imports::{self, Imports};

/// The heading above the table.
const HEADING: &str = "## Rooms";
/// The files that may use every room, and that none uses.
const ABOVE: [&str; 2] = ["lib.rs", "testing.rs"];
/// The names of the rows above and below those of the table.
const TOP: &str = "lib.rs, testing.rs";
const BOTTOM: &str = "files beside the rooms";

/// A row of the table: a room, and the rooms below it that it may use.
#[derive(Debug, PartialEq, Eq)]
struct Room {
    name: String,
    may_use: Vec<String>,
}

/// Draws the rooms of the runtime.
///
/// # Errors
/// Every import that the table does not allow, and every circle of files.
pub(crate) fn check(repository: &Path) -> Result<String, String> {
    let table =
        fs::read_to_string(repository.join("ARCHITECTURE.md")).map_err(|error| format!("ARCHITECTURE.md: {error}"))?;
    let mut files = BTreeMap::new();
    let source = repository.join("streams-runtime/src");
    gather(&source, "", &mut files).map_err(|error| format!("{}: {error}", source.display()))?;
    judge(&rooms(&table)?, &files)
}

/// Reads every source file below a folder, by its path from there.
fn gather(folder: &Path, path: &str, files: &mut BTreeMap<String, Imports>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, at) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if at.is_dir() {
            gather(&at, &format!("{path}{name}/"), files)?;
        } else if name.ends_with(".rs") {
            files.insert(format!("{path}{name}"), imports::read(&fs::read_to_string(at)?));
        }
    }
    Ok(())
}

/// Reads the table: the first column of a row names a room, and the last names the rooms that it may use.
fn rooms(text: &str) -> Result<Vec<Room>, String> {
    let section = text.split_once(&format!("\n{HEADING}\n")).ok_or(format!("ARCHITECTURE.md has no `{HEADING}`"))?.1;
    let rows =
        section.lines().skip_while(|line| !line.starts_with("| room |")).take_while(|line| line.starts_with('|'));
    let names = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches('/').to_owned()).collect()
    };
    let room = |row: &str| {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        let name = names(cells.first()?).into_iter().next()?;
        Some(Room { name, may_use: names(cells.last()?) })
    };
    let rooms: Vec<_> = rows.skip(2).filter_map(room).collect();
    if rooms.is_empty() { Err(format!("ARCHITECTURE.md has no table of rooms below `{HEADING}`")) } else { Ok(rooms) }
}

fn judge(rooms: &[Room], files: &BTreeMap<String, Imports>) -> Result<String, String> {
    let mut problems = Vec::new();
    for (place, room) in rooms.iter().enumerate() {
        let is_below = |name: &&String| !rooms[place + 1..].iter().any(|below| below.name == **name);
        problems.extend(
            room.may_use
                .iter()
                .filter(is_below)
                .map(|other| format!("the table lets `{}` use `{other}`, which is not below it", room.name)),
        );
        if !files.keys().any(|file| room_of(file) == room.name) {
            problems.push(format!("the table names `{}`, which has no file", room.name));
        }
    }
    let (mut drawn, mut inside) = (BTreeMap::new(), BTreeMap::new());
    for (file, imports) in files {
        let room = room_of(file);
        if room != TOP && room != BOTTOM && !rooms.iter().any(|one| one.name == room) {
            problems.push(format!("{file} is in no room of the table"));
            continue;
        }
        let used: &mut BTreeSet<&str> = drawn.entry(room).or_default();
        let imported: BTreeSet<_> =
            imports.paths.iter().filter_map(|(path, depth)| target(files, file, path, *depth)).collect();
        for other in imported.into_iter().filter(|other| other != file) {
            let other_room = room_of(other);
            if other_room == room && room != TOP {
                inside.entry(file.as_str()).or_insert_with(Vec::new).push(other);
                continue;
            }
            used.insert(other_room);
            if !may_use(rooms, room, other_room) {
                problems.push(format!("{file} imports {other}: `{room}` may not use `{other_room}`"));
            }
        }
    }
    while let Some(circle) = circle(&inside) {
        // Removes its first arrow, to find other circles.
        inside.entry(circle[0]).and_modify(|others| others.retain(|other| *other != circle[1]));
        problems.push(format!("a circle: {}", circle.join(" -> ")));
    }
    if problems.is_empty() { Ok(drawing(rooms, &drawn)) } else { Err(problems.join("\n")) }
}

/// The room of a file: its first folder.
fn room_of(file: &str) -> &str {
    match file.split_once('/') {
        Some((room, _)) => room,
        None if ABOVE.contains(&file) => TOP,
        None => BOTTOM,
    }
}

fn may_use(rooms: &[Room], room: &str, other: &str) -> bool {
    match (room, other) {
        (TOP, _) => true,
        (_, TOP) => false,
        (BOTTOM, other) => other == BOTTOM,
        (_, BOTTOM) => true,
        _ => rooms.iter().any(|one| one.name == room && one.may_use.iter().any(|name| name == other)),
    }
}

/// One line per room, from top to bottom, with the rooms that it uses.
fn drawing(rooms: &[Room], drawn: &BTreeMap<&str, BTreeSet<&str>>) -> String {
    let mut text = String::new();
    for room in rooms.iter().map(|room| room.name.as_str()) {
        let uses = |other: &&&str| drawn.get(room).is_some_and(|used| used.contains(**other));
        let below: Vec<_> = rooms.iter().map(|room| room.name.as_str()).collect();
        let used: Vec<_> = below.iter().filter(uses).copied().collect();
        let _ = writeln!(text, "{room:>14} -> {}", used.join(", "));
    }
    text
}

/// The file of the item that a path names, as seen from this file, `depth` inline modules deep in it.
fn target<'f>(files: &'f BTreeMap<String, Imports>, from: &str, path: &[String], depth: usize) -> Option<&'f str> {
    resolve(files, &module_of(from), path, depth, 0)
}

/// `hops` counts re-exports, so that a circle of them ends.
fn resolve<'f>(
    files: &'f BTreeMap<String, Imports>,
    from: &[String],
    path: &[String],
    depth: usize,
    hops: usize,
) -> Option<&'f str> {
    let (mut module, mut supers, mut at) = (from.to_vec(), 0, 0);
    match path.first()?.as_str() {
        "crate" => (module, at) = (Vec::new(), 1),
        "self" => at = 1,
        "super" => {
            while path.get(at).is_some_and(|segment| segment == "super") {
                supers += 1;
                at += 1;
            }
            let up = usize::saturating_sub(supers, depth);
            module.truncate(module.len().checked_sub(up)?);
        }
        // A single name is a module beside this file, or another crate's.
        first => drop(file_of(files, &[from, &[first.to_owned()]].concat())?),
    }
    let mut file = file_of(files, &module)?;
    for (place, segment) in path.iter().enumerate().skip(at) {
        module.push(segment.clone());
        if let Some(inner) = file_of(files, &module) {
            file = inner;
            continue;
        }
        module.pop();
        // The `mod.rs` re-exports it.
        let handed_on = files.get(file).and_then(|imports| imports.names.get(segment)).filter(|_| hops < 8);
        let rest = |known: &Vec<String>| [known.as_slice(), &path[place + 1..]].concat();
        return handed_on.and_then(|known| resolve(files, &module, &rest(known), 0, hops + 1)).or(Some(file));
    }
    Some(file)
}

/// The segments of a file's module.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn file_of<'f>(files: &'f BTreeMap<String, Imports>, module: &[String]) -> Option<&'f str> {
    let path = module.join("/");
    let names = if module.is_empty() {
        ["lib.rs".to_owned(), String::new()]
    } else {
        [format!("{path}.rs"), format!("{path}/mod.rs")]
    };
    names.iter().find_map(|name| files.get_key_value(name)).map(|(file, _)| file.as_str())
}

/// A path along imports that returns to its beginning.
fn circle<'f>(edges: &BTreeMap<&'f str, Vec<&'f str>>) -> Option<Vec<&'f str>> {
    fn walk<'f>(
        file: &'f str,
        edges: &BTreeMap<&'f str, Vec<&'f str>>,
        way: &mut Vec<&'f str>,
        done: &mut BTreeSet<&'f str>,
    ) -> bool {
        if let Some(begin) = way.iter().position(|before| *before == file) {
            way.drain(..begin);
            way.push(file);
            return true;
        }
        if done.contains(file) {
            return false;
        }
        way.push(file);
        if edges.get(file).into_iter().flatten().any(|other| walk(other, edges, way, done)) {
            return true;
        }
        way.pop();
        done.insert(file);
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    edges.keys().any(|file| walk(file, edges, &mut way, &mut done)).then_some(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# Architecture\n\n## Rooms\n\nFrom top to bottom.\n\n| room | is for | may use |\n|---|---|---|\n\
        | `app` | all | `ordered`, `queue`, `group` |\n| `ordered` | one | `group` |\n| `queue` | other | `group` |\n\
        | `group` | both | |\n\n## Next\n";

    fn judged(sources: &[(&str, &str)]) -> Result<String, String> {
        let mut files: BTreeMap<_, _> =
            ["lib.rs", "clock.rs", "app/mod.rs", "ordered/mod.rs", "queue/mod.rs", "group/mod.rs"]
                .map(|file| (file.to_owned(), Imports::default()))
                .into();
        files.extend(sources.iter().map(|(file, source)| ((*file).to_owned(), imports::read(source))));
        judge(&rooms(TABLE)?, &files)
    }

    #[test]
    fn the_table_says_who_may_use_whom() {
        let rooms = rooms(TABLE).unwrap();
        assert_eq!(rooms.len(), 4);
        assert_eq!(rooms[0].may_use, ["ordered", "queue", "group"]);
        assert!(rooms[3].may_use.is_empty());
    }

    #[test]
    fn the_drawing_shows_what_each_room_imports() {
        let drawn = judged(&[
            ("lib.rs", "mod app; pub use app::App;"),
            ("app/mod.rs", "use crate::group::Group; use crate::clock::Clock;"),
            ("ordered/mod.rs", "fn of(group: crate::group::Group) {}"),
        ]);
        assert_eq!(
            drawn.unwrap(),
            "           app -> group\n       ordered -> group\n         queue -> \n         group -> \n"
        );
    }

    #[test]
    fn an_import_of_a_higher_room_is_found_however_it_is_written() {
        for source in [
            "use crate::app::App;",
            "use super::super::app::App;",
            "fn f() -> crate::app::App {}",
            "use crate::{app::App};",
        ] {
            let problem = judged(&[("group/task.rs", source)]).unwrap_err();
            assert_eq!(problem, "group/task.rs imports app/mod.rs: `group` may not use `app`", "{source}");
        }
    }

    #[test]
    fn neither_delivery_may_use_the_other_and_what_stands_beside_the_rooms_none() {
        let problem = judged(&[("ordered/mod.rs", "use crate::queue::Queue;")]).unwrap_err();
        assert_eq!(problem, "ordered/mod.rs imports queue/mod.rs: `ordered` may not use `queue`");
        let problem = judged(&[("clock.rs", "use crate::group::Group;")]).unwrap_err();
        assert!(problem.starts_with("clock.rs imports group/mod.rs"), "{problem}");
    }

    #[test]
    fn a_circle_of_files_is_found_also_through_the_door() {
        let sources = [
            ("group/mod.rs", "mod a; mod b; pub(crate) use self::b::B;"),
            ("group/a.rs", "use super::B;"),
            ("group/b.rs", "use super::a::A;"),
        ];
        assert_eq!(judged(&sources).unwrap_err(), "a circle: group/a.rs -> group/b.rs -> group/a.rs");
        let sources = [("group/mod.rs", "mod a; use self::a::A;"), ("group/a.rs", "use super::Group;")];
        assert_eq!(judged(&sources).unwrap_err(), "a circle: group/a.rs -> group/mod.rs -> group/a.rs");
    }

    #[test]
    fn a_door_that_only_hands_names_on_makes_no_circle() {
        let sources =
            [("group/mod.rs", "mod a; pub(crate) use self::a::A;\nstruct Group;"), ("group/a.rs", "use super::Group;")];
        judged(&sources).unwrap();
    }

    #[test]
    fn a_file_in_no_room_and_a_room_without_a_file_are_found() {
        let problem = judged(&[("attic/mod.rs", "")]).unwrap_err();
        assert_eq!(problem, "attic/mod.rs is in no room of the table");
        let rooms =
            rooms(&TABLE.replace("| `group` | both | |", "| `group` | both | `app` |\n| `attic` | none | |")).unwrap();
        let files = ["app/mod.rs", "ordered/mod.rs", "queue/mod.rs", "group/mod.rs"]
            .map(|file| (file.to_owned(), Imports::default()))
            .into();
        let problems = judge(&rooms, &files).unwrap_err();
        assert_eq!(
            problems,
            "the table lets `group` use `app`, which is not below it\nthe table names `attic`, which has no file"
        );
    }
}
