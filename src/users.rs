//! Names of this machine's users, by the program that knows them wherever they are kept.

use std::process::{Command, Stdio};

/// The name of a user, or the number where there is none.
#[must_use]
pub fn name(uid: u32) -> String {
    let id = Command::new("id").args(["-nu", &uid.to_string()]).stdin(Stdio::null()).output();
    let name = id.ok().filter(|id| id.status.success()).and_then(|id| String::from_utf8(id.stdout).ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| uid.to_string())
}
