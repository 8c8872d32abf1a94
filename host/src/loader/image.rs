//! Reading little-endian numbers out of an image that may be shorter than it claims, and laying out small structures.

use alloc::{format, vec::Vec};

use super::Error;

pub fn bytes(image: &[u8], offset: usize, length: usize) -> Result<&[u8], Error> {
    let end = offset.checked_add(length).ok_or_else(|| format!("offset {offset:#x} overflows"))?;
    image.get(offset..end).ok_or_else(|| format!("the image ends before {end:#x}"))
}

pub fn u8_at(image: &[u8], offset: usize) -> Result<u8, Error> {
    Ok(bytes(image, offset, 1)?[0])
}

pub fn u16_at(image: &[u8], offset: usize) -> Result<u16, Error> {
    let bytes = bytes(image, offset, 2)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

pub fn u32_at(image: &[u8], offset: usize) -> Result<u32, Error> {
    let bytes = bytes(image, offset, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Something that grows at a fixed place of the guest's memory below 4 GiB.
pub struct Builder {
    base: u32,
    bytes: Vec<u8>,
}

impl Builder {
    pub fn at(base: u32) -> Self {
        Self { base, bytes: Vec::new() }
    }

    /// Appends, and returns the address of what was appended.
    pub fn push(&mut self, bytes: &[u8]) -> u32 {
        const ALIGN: usize = 16;
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let address = self.base + self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        address
    }

    /// Appends a text with a zero at its end.
    pub fn push_text(&mut self, text: &str) -> u32 {
        let address = self.push(text.as_bytes());
        self.bytes.push(0);
        address
    }

    pub fn base(&self) -> u32 {
        self.base
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Little-endian numbers one after another.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
