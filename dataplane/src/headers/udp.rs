//! UDP (RFC 768).

/// Bytes of the header.
pub const HEADER: usize = 8;

/// Writes a header with no checksum; `payload` is in bytes. `false` when there is no room or the payload is too long.
pub fn write(b: &mut [u8], source: u16, destination: u16, payload: usize) -> bool {
    let Ok(len) = u16::try_from(payload + HEADER) else { return false };
    let Some(h) = b.first_chunk_mut::<HEADER>() else { return false };
    h[..2].copy_from_slice(&source.to_be_bytes());
    h[2..4].copy_from_slice(&destination.to_be_bytes());
    h[4..6].copy_from_slice(&len.to_be_bytes());
    h[6..].fill(0);
    true
}
