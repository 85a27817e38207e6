//! A table that grows by whole rows, on a disk that may be full.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::record::RecordError;

/// A table of samples. It is made with its first row.
pub struct Rows {
    path: PathBuf,
    header: &'static str,
    file: Option<File>,
    /// Whether the file ends in a part of a row, as one whose writer died may.
    torn: bool,
    /// Rows that are not there.
    dropped: u64,
    /// Whether nothing more is written.
    over: bool,
}

impl Rows {
    /// The table at `path`, which need not be there; `header` is its first line.
    pub fn new(path: PathBuf, header: &'static str) -> Self {
        Self { path, header, file: None, torn: false, dropped: 0, over: false }
    }

    /// Whether the table can be written no longer.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Appends rows, each with its line feed: all of them or none. Where the disk is full they are dropped, and later ones tried again; any
    /// other error is the end of the table. Either is logged once.
    pub fn append(&mut self, rows: &str) {
        if rows.is_empty() || self.over {
            return;
        }
        let Err(source) = self.write(rows) else { return };
        let error = RecordError { path: self.path.clone(), source };
        let is_first = self.dropped == 0;
        self.dropped += rows.lines().count() as u64;
        if !error.is_full() {
            self.over = true;
            tracing::warn!("{}; no more samples are kept in it", crate::error::chain(&error));
        } else if is_first {
            tracing::warn!("{}; samples are dropped until there is room", crate::error::chain(&error));
        }
    }

    fn write(&mut self, rows: &str) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&self.path)?;
            self.torn = is_torn(&mut file)?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let length = file.metadata()?.len();
        let header = if length == 0 { format!("{}\n", self.header) } else { String::new() };
        let feed = if self.torn { "\n" } else { "" };
        // One write, so that a reader hardly ever sees a part of it.
        if let Err(error) = file.write_all(format!("{header}{feed}{rows}").as_bytes()) {
            // A full disk may have taken a part.
            self.torn |= file.set_len(length).is_err();
            return Err(error);
        }
        self.torn = false;
        Ok(())
    }
}

fn is_torn(file: &mut File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_gone_on_with_on_a_new_line() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = place.path().join("ranks.csv");
        let mut rows = Rows::new(path.clone(), "a,b");
        rows.append("");
        assert!(!path.exists(), "made without a row");
        rows.append("1,2\n3,4\n");
        std::fs::write(&path, "a,b\n1,2\n3,").expect("written");
        let mut heir = Rows::new(path.clone(), "a,b");
        heir.append("5,6\n");
        heir.append("7,8\n");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "a,b\n1,2\n3,\n5,6\n7,8\n");
    }

    #[test]
    fn a_full_disk_takes_rows_and_no_table() {
        let mut rows = Rows::new("/dev/full".into(), "a,b");
        rows.file = Some(File::options().append(true).open("/dev/full").expect("there"));
        rows.append("1,2\n3,4\n");
        assert_eq!((rows.dropped, rows.is_over()), (2, false));
        // What cannot be opened is given up.
        let mut rows = Rows::new("/nonexistent/ranks.csv".into(), "a,b");
        rows.append("1,2\n");
        rows.append("3,4\n");
        assert_eq!((rows.dropped, rows.is_over()), (1, true));
    }
}
