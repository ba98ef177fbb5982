//! A place in the middle of a transfer, where the program of the server waits.

use std::fs;
use std::process::Command;

use crate::harness::run;
use support::{Directory, until};

/// The program comes to a script of this name, which makes a file, and goes on when there
/// is another one.
pub struct Gate<'a> {
    directory: &'a Directory,
    name: &'a str,
}

impl<'a> Gate<'a> {
    pub fn new(directory: &'a Directory, name: &'a str) -> Self {
        Gate { directory, name }
    }

    fn path(&self, end: &str) -> String {
        self.directory.join(&format!("{}.{end}", self.name)).display().to_string()
    }

    /// Writes the script, which ends with these lines, and gives its path. It goes on by
    /// itself, should the test be gone.
    pub fn script(&self, tail: &str) -> String {
        let (here, go) = (self.path("here"), self.path("go"));
        let text = format!(
            "#!/bin/sh\ntouch {here}\n\
             for i in $(seq 400); do [ -e {go} ] && break; sleep 0.1; done\n{tail}"
        );
        let file = self.directory.write(self.name, &text);
        run(Command::new("chmod").arg("755").arg(&file));
        file.display().to_string()
    }

    /// Waits for the program, runs `meanwhile`, and lets the program go on.
    pub fn pass(&self, meanwhile: impl FnOnce()) {
        let is_here = || fs::exists(self.path("here")).unwrap_or(false);
        until("the program is in the middle", || is_here().then_some(()));
        meanwhile();
        fs::write(self.path("go"), "").expect("let the program go on");
    }
}
