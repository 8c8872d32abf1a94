//! Which processor of which machine a vCPU is: APIC id, and how ids are made of thread, core and package.

use super::features::CpuidFeature;
use super::leaves::Leaves;
use super::{EAX, EBX, Registers};

/// The place of a vCPU among the processors of its machine, as leaves 1, 4, 0BH and 1FH tell it.
///
/// An APIC id is made of the package, the core in it and the thread in that, each with as many bits as its highest number
/// needs.
///
/// # Example
///
/// ```no_run
/// use axerrno::AxResult;
/// use x86_vcpu::{CpuidTopology, PhysFrameHal, VmxVcpu};
///
/// /// vCPU `number` of a machine with four: one package of two cores with two threads each.
/// fn tell_topology(vcpu: &mut VmxVcpu<PhysFrameHal>, number: u32) -> AxResult {
///     let mut cpuid = vcpu.cpuid_policy()?;
///     cpuid.set_topology(CpuidTopology { apic_id: number, threads_per_core: 2, cores_per_package: 2 })?;
///     vcpu.set_cpuid_policy(cpuid)
/// }
/// ```
#[doc(alias("smp", "cores", "threads"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidTopology {
    /// The x2APIC id of this vCPU; its low 8 bits are the initial APIC id.
    pub apic_id: u32,
    /// Logical processors of a core: 1 to 256.
    pub threads_per_core: u32,
    /// Cores of a package: 1 to 65536.
    pub cores_per_package: u32,
}

impl CpuidTopology {
    /// A processor that shares its package with no other.
    pub const fn alone(apic_id: u32) -> Self {
        Self { apic_id, threads_per_core: 1, cores_per_package: 1 }
    }

    pub(super) fn is_valid(&self) -> bool {
        matches!(self.threads_per_core, 1..=256) && matches!(self.cores_per_package, 1..=0x1_0000)
    }

    pub(super) fn write(&self, leaves: &mut Leaves) {
        let [thread_bits, package_bits] = self.shifts();
        let processors = self.threads_per_core * self.cores_per_package;
        if let Some(registers) = leaves.get_mut(1, 0) {
            let addressable = (1u32 << package_bits).min(255);
            registers[EBX] = registers[EBX] & 0xFFFF | addressable << 16 | self.apic_id << 24;
            let flag = CpuidFeature::HTT;
            registers[flag.register()] &= !flag.mask();
            if processors > 1 {
                registers[flag.register()] |= flag.mask();
            }
        }
        for cache in leaves.iter_mut().filter(|entry| entry.leaf == 4) {
            self.write_cache(&mut cache.registers);
        }
        for leaf in [0xB, 0x1F] {
            leaves.retain(|entry| entry.leaf != leaf || entry.subleaf < 2);
            let threads = [thread_bits, self.threads_per_core, 1 << 8, self.apic_id];
            let cores = [package_bits, processors, 2 << 8 | 1, self.apic_id];
            for (subleaf, level) in [(0, threads), (1, cores)] {
                if let Some(registers) = leaves.get_mut(leaf, subleaf) {
                    *registers = level;
                }
            }
        }
    }

    /// The threads of a core share the first two levels of caches, all of a package the others.
    fn write_cache(&self, registers: &mut Registers) {
        let [thread_bits, package_bits] = self.shifts();
        let cores = ((1u32 << (package_bits - thread_bits)) - 1).min(0x3F);
        let level = registers[EAX] >> 5 & 0b111;
        let sharing = (1u32 << if level > 2 { package_bits } else { thread_bits }) - 1;
        registers[EAX] = registers[EAX] & 0x3FFF | sharing.min(0xFFF) << 14 | cores << 26;
    }

    /// By how many bits an APIC id is shifted to give the core's number, and the package's.
    fn shifts(&self) -> [u32; 2] {
        let bits = |count: u32| count.next_power_of_two().trailing_zeros();
        [bits(self.threads_per_core), bits(self.threads_per_core) + bits(self.cores_per_package)]
    }
}
