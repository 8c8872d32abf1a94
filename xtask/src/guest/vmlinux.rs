//! The kernel proper, out of the image that unpacks itself.
//!
//! Where it lies in the image: Documentation/arch/x86/boot.rst, "payload_offset". How it is packed: LZ4's "legacy
//! frame", which is a magic number and blocks, each after its length. Linux puts the unpacked size after them.

use anyhow::{Context, Result, bail, ensure};

const SETUP_SECTORS: usize = 0x1F1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24C;
const SECTOR: usize = 512;

const LEGACY_FRAME: u32 = 0x184C_2102;
const BLOCK_MAX: usize = 8 << 20;
const SIZE_BEHIND: usize = 4;

pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let setup = usize::from(*image.get(SETUP_SECTORS).context("the image has no setup header")?);
    let start = (setup + 1) * SECTOR + u32_at(image, PAYLOAD_OFFSET)? as usize;
    let length = u32_at(image, PAYLOAD_LENGTH)? as usize;
    let payload = image.get(start..start + length).context("the image ends before its payload")?;
    let Some((packed, size)) = payload.split_last_chunk::<SIZE_BEHIND>() else {
        bail!("the image has no payload");
    };
    unpack_blocks(packed, u32::from_le_bytes(*size) as usize)
}

fn unpack_blocks(frame: &[u8], size: usize) -> Result<Vec<u8>> {
    ensure!(u32_at(frame, 0)? == LEGACY_FRAME, "the kernel is not packed with LZ4");
    let mut rest = &frame[4..];
    let mut unpacked = Vec::with_capacity(size);
    while !rest.is_empty() {
        let length = u32_at(rest, 0)? as usize;
        let block = rest.get(4..4 + length).context("a packed block is cut off")?;
        unpacked.extend(lz4_flex::block::decompress(block, BLOCK_MAX).context("a packed block is not LZ4")?);
        rest = &rest[4 + length..];
    }
    ensure!(unpacked.len() == size, "the kernel has {} bytes, not {size}", unpacked.len());
    Ok(unpacked)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(*field.context("the image ends within a field")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(frame: &[u8], size: u32) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(frame.len() as u32 + 4).to_le_bytes());
        [image, frame.to_vec(), size.to_le_bytes().to_vec()].concat()
    }

    fn frame(blocks: &[&[u8]]) -> Vec<u8> {
        let mut frame = LEGACY_FRAME.to_le_bytes().to_vec();
        for block in blocks {
            let packed = lz4_flex::block::compress(block);
            frame.extend((packed.len() as u32).to_le_bytes());
            frame.extend(packed);
        }
        frame
    }

    #[test]
    fn blocks_are_joined() {
        assert_eq!(unpack(&image(&frame(&[b"vm", b"linux"]), 7)).unwrap(), b"vmlinux");
    }

    #[test]
    fn what_is_cut_off_or_packed_otherwise_is_an_error() {
        let good = frame(&[b"vmlinux"]);
        assert!(unpack(&image(&good, 8)).is_err());
        assert!(unpack(&image(&good[..good.len() - 1], 7)).is_err());
        assert!(unpack(&image(b"BZh91AY", 7)).is_err());
        assert!(unpack(&good).is_err());
    }
}
