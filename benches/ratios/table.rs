//! The table that the bench prints, row by row, and the verdict below it.

use std::fmt;
use std::fs;

use crate::figures::Subject;

/// A figure's line.
pub struct Row {
    /// What was measured; one that begins with a space goes on from the last that does not.
    pub label: String,
    /// What the numbers are.
    pub unit: Unit,
    /// The bare loop's.
    pub bare: f64,
    /// The subject's.
    pub subject: f64,
    /// Subject to bare, where that says something.
    pub ratio: Option<Ratio>,
    /// What is to be reached.
    pub target: Target,
    /// What the load generator itself took of it.
    pub generator: Option<String>,
}

impl Row {
    /// A row of two numbers, bare and subject, of which the ratio says nothing.
    pub fn new(label: &str, unit: Unit, [bare, subject]: [f64; 2], target: Target) -> Row {
        Row { label: label.to_owned(), unit, bare, subject, ratio: None, target, generator: None }
    }
}

/// How a number is written.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Requests per second.
    PerSecond,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Binary thousands of bytes.
    Kib,
    /// How many.
    Count,
}

/// The ratio of subject to bare: the median of the rounds, the least and the greatest.
#[derive(Clone, Copy)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

/// What a figure has to reach.
#[derive(Clone, Copy)]
pub enum Target {
    /// The ratio is at least this.
    RatioAtLeast(f64),
    /// The ratio is at most this.
    RatioAtMost(f64),
    /// The subject's number is at most this.
    AtMost(f64),
    /// The subject's number is below this.
    Below(f64),
    /// The row is there to be compared with.
    Told,
}

/// The rows so far.
pub struct Table {
    heading: String,
    met: usize,
    missed: Vec<String>,
}

impl Table {
    /// Prints what this runs on, and the head.
    pub fn begin(subject: Subject, rounds: usize) -> Table {
        println!("{}", machine());
        println!(
            "{rounds} rounds in turn; numbers are medians, ratios the median of the rounds' ratios \
             (least to greatest)\n"
        );
        println!(
            "{:<52} {:>12} {:>12} {:>7} {:<15} {:>8}  {:<4} generator",
            "figure",
            "bare",
            match subject {
                Subject::Daemon => "preforkd",
                Subject::Bare => "bare again",
            },
            "ratio",
            "",
            "target",
            "met"
        );
        Table { heading: String::new(), met: 0, missed: Vec::new() }
    }

    /// Prints a row.
    pub fn add(&mut self, row: Row) {
        if !row.label.starts_with(' ') {
            self.heading.clone_from(&row.label);
        }
        let met = row.target.is_met(row.ratio, row.subject);
        let (ratio, range) = row.ratio.map_or((String::new(), String::new()), |ratio| {
            (format!("{:.3}", ratio.median), format!("({:.3}-{:.3})", ratio.least, ratio.greatest))
        });
        println!(
            "{:<52} {:>12} {:>12} {:>7} {:<15} {:>8}  {:<4} {}",
            row.label,
            row.unit.write(row.bare),
            row.unit.write(row.subject),
            ratio,
            range,
            row.target.to_string(),
            match met {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            },
            row.generator.as_deref().unwrap_or(""),
        );
        match met {
            Some(true) => self.met += 1,
            Some(false) => self.missed.push(self.full_label(&row.label)),
            None => {}
        }
    }

    fn full_label(&self, label: &str) -> String {
        if label.starts_with(' ') {
            let heading = self.heading.split(':').next().unwrap_or_default();
            format!("{heading}: {}", label.trim_start())
        } else {
            label.to_owned()
        }
    }

    /// Prints which targets are met.
    pub fn end(&self) {
        let all = self.met + self.missed.len();
        match self.missed.as_slice() {
            [] => println!("\nmet: all of {all} targets"),
            missed => {
                println!("\nmet: {} of {all} targets; missed: {}", self.met, missed.join("; "))
            }
        }
    }

    /// Whether no target is missed.
    pub fn all_met(&self) -> bool {
        self.missed.is_empty()
    }
}

impl Unit {
    fn write(self, number: f64) -> String {
        match self {
            Unit::PerSecond => format!("{number:.0} /s"),
            Unit::Micros => format!("{number:.2} µs"),
            Unit::Millis => format!("{number:.2} ms"),
            Unit::Kib => format!("{number:.0} KiB"),
            Unit::Count => format!("{number:.0}"),
        }
    }
}

impl Target {
    fn is_met(self, ratio: Option<Ratio>, number: f64) -> Option<bool> {
        match self {
            Target::RatioAtLeast(least) => Some(ratio.is_some_and(|ratio| ratio.median >= least)),
            Target::RatioAtMost(most) => Some(ratio.is_some_and(|ratio| ratio.median <= most)),
            Target::AtMost(most) => Some(number <= most),
            Target::Below(limit) => Some(number < limit),
            Target::Told => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::RatioAtLeast(least) => write!(f, ">= {least:.2}"),
            Target::RatioAtMost(most) => write!(f, "<= {most:.2}"),
            Target::AtMost(most) => write!(f, "<= {most}"),
            Target::Below(limit) => write!(f, "< {limit}"),
            Target::Told => Ok(()),
        }
    }
}

/// What the bench runs on, as far as it tells.
fn machine() -> String {
    let told = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = told("/proc/sys/kernel/osrelease");
    let information = told("/proc/cpuinfo");
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = told("/proc/loadavg");
    format!(
        "Linux {} on {cores} cores of {model}; load {} before the start",
        release.trim(),
        load.split(' ').next().unwrap_or_default()
    )
}
