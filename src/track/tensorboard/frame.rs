//! The bytes of an event file: records with checksums, and in each the few fields of protobuf that we use.
//!
//! ```text
//! record   length (u64) | masked CRC-32C of it (u32) | event | masked CRC-32C of the event (u32), little endian
//! Event    1: wall time (double), 2: step (int64), 3: file version (string), 5: Summary
//! Summary  1, repeated: Value      Value  1: tag (string), 2: simple value (float)
//! ```

use std::collections::BTreeMap;

/// An event as a record of the file.
pub fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(event.len() + 16);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&masked(&length).to_le_bytes());
    bytes.extend_from_slice(event);
    bytes.extend_from_slice(&masked(event).to_le_bytes());
    bytes
}

/// The first event of a file.
pub fn begin(time_ms: u64) -> Vec<u8> {
    let mut event = wall_time(time_ms);
    bytes_field(&mut event, 3, b"brain.Event:2");
    event
}

/// An event with numbers by name.
pub fn scalars(time_ms: u64, step: u64, values: &BTreeMap<String, f64>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in values {
        let mut value = Vec::new();
        bytes_field(&mut value, 1, tag.as_bytes());
        key(&mut value, 2, FIXED32);
        #[expect(clippy::cast_possible_truncation, reason = "the format holds 32 bits")]
        value.extend_from_slice(&(*number as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &value);
    }
    let mut event = wall_time(time_ms);
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    bytes_field(&mut event, 5, &summary);
    event
}

/// Steps and first tags of the events of a file, as far as it is whole: a controller may have been killed while it wrote.
pub fn read(mut file: &[u8]) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    while let Some((event, rest)) = next(file) {
        file = rest;
        found.extend(step_and_tag(event));
    }
    found
}

fn next(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u64::from_le_bytes(file.get(..8)?.try_into().ok()?)).ok()?;
    let end = length.checked_add(12)?;
    let event = file.get(12..end)?;
    let sum = file.get(end..end + 4)?;
    (masked(event).to_le_bytes() == sum).then_some((event, &file[end + 4..]))
}

fn step_and_tag(event: &[u8]) -> Option<(u64, String)> {
    let mut step = 0;
    let mut summary = None;
    for (number, value) in Fields(event) {
        match (number, value) {
            (2, Value::Number(number)) => step = number,
            (5, Value::Bytes(bytes)) => summary = Some(bytes),
            _ => {}
        }
    }
    let bytes = |(number, value)| match value {
        Value::Bytes(bytes) if number == 1 => Some(bytes),
        _ => None,
    };
    let tag = Fields(Fields(summary?).find_map(bytes)?).find_map(bytes)?;
    Some((step, String::from_utf8_lossy(tag).into_owned()))
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

fn wall_time(time_ms: u64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED64);
    event.extend_from_slice(&(time_ms as f64 / 1e3).to_le_bytes());
    event
}

fn key(bytes: &mut Vec<u8>, field: u64, kind: u64) {
    varint(bytes, (field << 3) | kind);
}

fn bytes_field(bytes: &mut Vec<u8>, field: u64, content: &[u8]) {
    key(bytes, field, BYTES);
    varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    bytes.push(number as u8);
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            FIXED64 => self.take(8).map(|_| Value::Other)?,
            FIXED32 => self.take(4).map(|_| Value::Other)?,
            BYTES => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

/// CRC-32C, rotated and shifted: a checksum over bytes that hold checksums would else say little.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc = TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8;
    }
    !crc
}

/// By Castagnoli's polynomial, its bits in reverse.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = at as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn an_event_is_what_protobuf_makes_of_it() {
        // Encoded with Python's protobuf from the fields' numbers and kinds.
        let values = BTreeMap::from([("a/b".to_owned(), 0.5)]);
        let event = scalars(1500, 300, &values);
        let expected = [
            0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 0xac, 0x02, 0x2a, 0x0c, 0x0a, 0x0a, 0x0a, 0x03, b'a', b'/', b'b',
            0x15, 0, 0, 0, 0x3f,
        ];
        assert_eq!(event, expected);
    }

    #[test]
    fn what_is_written_reads_back_up_to_where_it_was_cut() {
        let values = |tag: &str| BTreeMap::from([(tag.to_owned(), 1.0), ("z".to_owned(), 2.0)]);
        let mut file = record(&begin(1));
        for (step, tag) in [(7, "a"), (u64::from(u32::MAX), "b")] {
            file.extend(record(&scalars(1, step, &values(tag))));
        }
        let all = [(7, "a".to_owned()), (u64::from(u32::MAX), "b".to_owned())];
        assert_eq!(read(&file), all);
        for cut in 1..40 {
            assert_eq!(read(&file[..file.len() - cut]), all[..1], "{cut}");
        }
        let at = file.len() - 8;
        file[at] ^= 1;
        assert_eq!(read(&file), all[..1]);
    }
}
