//! The few lines of PNG that an 8-bit RGB image needs.

use std::io::{self, Write as _};

use flate2::{Compression, Crc, write::ZlibEncoder};

/// Encodes `rgb`, rows of `side` pixels of three bytes, as a PNG file.
///
/// # Panics
/// When `rgb` does not hold `side` × `side` pixels, which is the caller's mistake.
pub fn encode(rgb: &[u8], side: usize) -> io::Result<Vec<u8>> {
    assert_eq!(rgb.len(), side * side * 3, "the buffer holds one image");
    let width = u32::try_from(side).map_err(io::Error::other)?.to_be_bytes();
    let mut header = [width, width].concat();
    // Eight bits a channel, RGB, deflate, the usual filters, not interlaced.
    header.extend([8, 2, 0, 0, 0]);

    let mut body = ZlibEncoder::new(Vec::with_capacity(rgb.len() / 2), Compression::new(4));
    let stride = side * 3;
    let mut previous = vec![0; stride];
    let mut filtered = vec![0; stride];
    for row in rgb.chunks_exact(stride) {
        // Filter 2: each byte as the difference from the one above, which suits gradients.
        for ((out, now), above) in filtered.iter_mut().zip(row).zip(&previous) {
            *out = now.wrapping_sub(*above);
        }
        body.write_all(&[2])?;
        body.write_all(&filtered)?;
        previous.copy_from_slice(row);
    }

    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut file, b"IHDR", &header)?;
    chunk(&mut file, b"IDAT", &body.finish()?)?;
    chunk(&mut file, b"IEND", &[])?;
    Ok(file)
}

fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], body: &[u8]) -> io::Result<()> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(body);
    file.extend(u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes());
    file.extend(kind);
    file.extend(body);
    file.extend(crc.sum().to_be_bytes());
    Ok(())
}
