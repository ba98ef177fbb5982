//! `cargo bench`: what the daemon costs over the loop that it is built on.
//!
//! Each figure is a ratio to a bare prefork loop of the same service (fork, accept, serve,
//! close; nothing else), because a ratio outlives the machine that it was measured on. The
//! bench starts both, measures them in turn and takes the median over the rounds.
//!
//! ```text
//! cargo bench                          every figure, five rounds
//! cargo bench -- respawn exec          the figures of these names
//! cargo bench -- --rounds 9 connection
//! cargo bench -- --check               exit status 1 if a target is missed
//! cargo bench -- --self connection     the bare loop beside itself: the error of the method
//! ```
//!
//! Why a plain `main` and not criterion: what is measured here is whole trees of processes,
//! two of them in turn, and the answer is the ratio of each pair. criterion times a closure
//! in its own process, one after the other, and compares with what it remembers of the last
//! run; on a shared machine that difference is mostly the weather.

mod bare;
mod cores;
mod daemon;
mod deaths;
mod figures;
mod growth;
mod load;
mod program;
mod samples;
mod server;
mod table;
mod turns;
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use figures::{Bench, FIGURES, Subject};
use table::Table;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const USAGE: &str = "usage: cargo bench -- [--rounds N] [--check] [--self] [FIGURE]...";

/// What the command line asks for.
struct Wish {
    rounds: usize,
    check: bool,
    subject: Subject,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == bare::ARGUMENT).is_some() {
        return bare::main(arguments);
    }
    let arguments: Vec<String> = arguments.collect();
    // Cargo says `--bench` to a bench and nothing to one that `cargo test --all-targets`
    // tries, without optimisation: a figure from there would only mislead.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("ratios: figures are measured by cargo bench only");
        return ExitCode::SUCCESS;
    }
    let wish = match Wish::parse(&arguments) {
        Ok(wish) => wish,
        Err(reason) => {
            eprintln!("{reason}\n{USAGE}\nfigures:");
            for figure in FIGURES {
                eprintln!("  {:<12} {}", figure.name, figure.what);
            }
            return ExitCode::from(64);
        }
    };
    match run(&wish) {
        Ok(table) if wish.check && !table.all_met() => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("ratios: {reason}");
            ExitCode::from(2)
        }
    }
}

impl Wish {
    fn parse(arguments: &[String]) -> Result<Wish, String> {
        let mut wish =
            Wish { rounds: 5, check: false, subject: Subject::Daemon, names: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {}
                "--check" => wish.check = true,
                "--self" => wish.subject = Subject::Bare,
                "--rounds" => {
                    wish.rounds = arguments
                        .next()
                        .and_then(|number| number.parse().ok())
                        .filter(|rounds| (1..=1000).contains(rounds))
                        .ok_or("--rounds wants a number from 1 to 1000")?;
                }
                name if FIGURES.iter().any(|figure| figure.name == name) => {
                    wish.names.push(name.to_owned());
                }
                other => return Err(format!("there is no figure \"{other}\"")),
            }
        }
        Ok(wish)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

/// Measures what is wished for and prints each row as soon as it is known.
fn run(wish: &Wish) -> Result<Table> {
    server::adopt_orphans()?;
    let directory = Directory::new()?;
    let bench =
        Bench { rounds: wish.rounds, subject: wish.subject, directory: directory.0.clone() };
    let mut table = Table::begin(wish.subject, wish.rounds);
    for figure in FIGURES.iter().filter(|figure| wish.wants(figure.name)) {
        let rows = (figure.measure)(&bench)
            .map_err(|reason| format!("could not measure figure \"{}\": {reason}", figure.name))?;
        for row in rows {
            table.add(row);
        }
    }
    table.end();
    Ok(table)
}

/// A directory of this run's own, which goes when the run ends.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Directory, String> {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("ratios-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|reason| {
            format!("could not create directory \"{}\": {reason}", path.display())
        })?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing is lost if it stays: it lies under target/.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
