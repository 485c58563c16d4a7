//! `docs/getting-started.md`, followed to the letter: its files, its commands, and what it says that they print.

use std::process::Command;
use std::time::{Duration, Instant};

use streams_tests::{Program, RedisServer, UserCrate};

const GUIDE: &str = include_str!("../../../docs/getting-started.md");

/// The blocks of a language, each with the line of text before it.
fn blocks(language: &str) -> Vec<(&str, &str)> {
    let opening = format!("```{language}\n");
    let (mut found, mut rest) = (Vec::new(), GUIDE);
    while let Some((before, after)) = rest.split_once(opening.as_str()) {
        let (block, after) = after.split_once("```").expect("a block ends");
        found.push((before.trim_end().lines().last().unwrap_or_default(), block));
        rest = after;
    }
    found
}

/// Waits until the service has printed these lines, in whatever order its groups come to them.
fn prints(service: &Program, lines: &str) {
    let began = Instant::now();
    while !lines.lines().all(|line| service.output().lines().any(|said| said == line)) {
        assert!(began.elapsed() < Duration::from_secs(60), "{}\n{}", service.output(), service.errors());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_newcomer_gets_from_an_empty_folder_to_a_dead_letter() {
    let shop = UserCrate::empty();
    for (name, text) in blocks("toml").into_iter().chain(blocks("rust")) {
        let name = name.trim_matches(|c| c == '`' || c == ':');
        shop.write(name, &text.replace("../streams", &UserCrate::workspace().display().to_string()));
    }
    shop.fetch();
    let commands: Vec<&str> = blocks("sh").into_iter().flat_map(|(_, block)| block.lines()).collect();
    assert!(commands.contains(&"cargo test"), "{commands:?}");
    shop.test(&[]).unwrap();
    assert!(shop.path("schemas/orders.lock.json").exists());
    let built = shop.cargo(&["build", "--quiet", "--bins"], &[]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let server = RedisServer::start();
    let url = server.url();
    let start = || {
        let mut command = Command::new(shop.built("shop"));
        command.env("REDIS_URL", &url).env("STREAMS_LEASE", "2s").current_dir(shop.path("."));
        Program::start(&mut command)
    };
    let orders: Vec<&str> =
        commands.iter().filter_map(|command| command.strip_prefix("cargo run --bin order -- ")).collect();
    let order = |words: &str| {
        let mut command = Command::new(shop.built("order"));
        let said = command.args(words.split(' ')).env("REDIS_URL", &url).output().unwrap();
        assert!(said.status.success() && said.stdout.starts_with(b"ordered: "), "{said:?}");
    };
    let printed: Vec<&str> = blocks("text").into_iter().map(|(_, block)| block).collect();
    let [first, after_the_restart, reason] = printed[..] else { panic!("{printed:?}") };
    let [one, rest @ ..] = &orders[..] else { panic!("{orders:?}") };

    let mut service = start();
    order(one);
    prints(&service, first);
    service.signal("INT");
    assert_eq!(service.code(), Some(0), "{}", service.errors());
    rest.iter().for_each(|words| order(words));
    let service = start();
    prints(&service, after_the_restart);
    assert!(!service.output().contains(first.lines().next().unwrap()), "it went on: {}", service.output());

    let tool = |command: &str| {
        let mut words = command.split(' ');
        assert_eq!(words.next(), Some("streams"));
        let said = Command::new(env!("CARGO_BIN_EXE_streams")).args(words).env("REDIS_URL", &url).output().unwrap();
        (
            said.status.code(),
            String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr),
        )
    };
    for command in commands.iter().filter(|command| command.starts_with("streams ") && !command.contains("replay")) {
        let began = Instant::now();
        loop {
            let (code, said) = tool(command);
            if code == Some(0) && (!command.contains("dead") || said.contains(reason.trim())) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{command}: {code:?} {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let replay = commands.iter().find(|command| command.contains("dead replay")).expect("it is shown");
    let (code, said) = tool(&format!("{replay} --yes"));
    assert_eq!(code, Some(0), "{said}");
}
