//! A private directory of one test, removed with all that is in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::mkdtemp;

pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let template = std::env::temp_dir().join("preforkd-test.XXXXXX");
        let path = mkdtemp(&template).expect("create a private directory");
        // Workers under another user have to get through it.
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("open the directory");
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of `name` in here.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in here and gives its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, text).expect("write a file of the test");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
