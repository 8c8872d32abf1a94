//! Instructions without operands in their encoding, and those of VMX.

use crate::{assembler::Assembler, source::Source, values};

/// Instructions without operands in their encoding.
pub fn system(s: &mut Source, a: &mut Assembler) {
    const PLAIN: [&[u8]; 32] = [
        &[0xF4],                   // HLT
        &[0xF3, 0x90],             // PAUSE
        &[0x0F, 0x01, 0xC8],       // MONITOR
        &[0x0F, 0x01, 0xC9],       // MWAIT
        &[0x0F, 0x31],             // RDTSC
        &[0x0F, 0x01, 0xF9],       // RDTSCP
        &[0x0F, 0x33],             // RDPMC
        &[0x0F, 0x08],             // INVD
        &[0x0F, 0x09],             // WBINVD
        &[0x0F, 0x01, 0xD1],       // XSETBV
        &[0x0F, 0x01, 0xD0],       // XGETBV
        &[0x0F, 0xAA],             // RSM
        &[0x0F, 0x37],             // GETSEC
        &[0x0F, 0x01, 0xCF],       // ENCLS
        &[0x0F, 0x01, 0xC0],       // ENCLV
        &[0x0F, 0x01, 0xD7],       // ENCLU
        &[0x0F, 0x01, 0xC5],       // PCONFIG
        &[0x0F, 0x01, 0xF8],       // SWAPGS
        &[0x0F, 0x05],             // SYSCALL
        &[0x0F, 0x07],             // SYSRET
        &[0x48, 0x0F, 0x07],       // SYSRET with 64 bits; DEC EAX before it elsewhere
        &[0x0F, 0x34],             // SYSENTER
        &[0x0F, 0x35],             // SYSEXIT
        &[0x0F, 0x01, 0xCA],       // CLAC
        &[0x0F, 0x01, 0xCB],       // STAC
        &[0x0F, 0x01, 0xEE],       // RDPKRU
        &[0x0F, 0x01, 0xEF],       // WRPKRU
        &[0xF3, 0x0F, 0xAE, 0xF0], // UMONITOR
        &[0xF2, 0x0F, 0xAE, 0xF0], // UMWAIT
        &[0x66, 0x0F, 0xAE, 0xF0], // TPAUSE
        &[0x0F, 0x01, 0xFC],       // CLZERO, which Intel's do not have
        &[0x0F, 0x01, 0xD5],       // XEND
    ];
    if s.one_in(3) {
        a.set(0, values::interesting(s));
        a.set(1, s.below(4));
    }
    // XSETBV with what may be in XCR0.
    if s.one_in(8) {
        a.set(0, s.bits() & 0x2FF);
        a.set(1, s.below(16) / 12);
        a.set(2, s.below(16) / 15);
        return a.bytes(&[0x0F, 0x01, 0xD1]);
    }
    let bytes = *s.pick(&PLAIN);
    a.bytes(bytes);
}

/// VMX instructions. The guest has none of them.
pub fn virtualization(s: &mut Source, a: &mut Assembler) {
    match s.below(12) {
        0..3 => a.bytes(&[0x0F, 0x01, 0xC1]),
        3 => a.bytes(&[0x0F, 0x01, 0xC2]),
        4 => a.bytes(&[0x0F, 0x01, 0xC3]),
        5 => a.bytes(&[0x0F, 0x01, 0xC4]),
        6 => a.bytes(&[0x0F, 0x01, 0xD4]),
        7 => a.modrm(s, &[0x0F, 0x78], None),
        8 => a.modrm(s, &[0x0F, 0x79], None),
        // VMPTRLD, VMCLEAR, VMXON, VMPTRST, RDRAND, RDSEED by prefix and form.
        9 => {
            let prefix = *s.pick(&[0x66u8, 0xF3, 0x90]);
            let reg = 6 + s.below(2) as u8;
            a.bytes(&[prefix]);
            a.modrm(s, &[0x0F, 0xC7], Some(reg));
        }
        // INVEPT, INVVPID, INVPCID.
        10 => {
            let opcode = 0x80 + s.below(3) as u8;
            a.bytes(&[0x66]);
            a.modrm(s, &[0x0F, 0x38, opcode], None);
        }
        _ => a.bytes(&[0x0F, 0x01, 0xDA]),
    }
}
