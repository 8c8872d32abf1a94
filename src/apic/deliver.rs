//! The way of a message: from whoever sends it to the inboxes of those that it is for.

use super::inbox::Inbox;
use super::message::{Delivery, Message};

/// Posts a message to the local APICs that it is for.
///
/// `inboxes` are those of all vCPUs of the machine, in the same order each time. `sender` is the index of the vCPU that sends, for
/// messages that come from one. The function calls `kick` with the index of each vCPU that has to be interrupted or woken, but not
/// with the sender's. The sender handles an exit, and looks into its inbox ([`Inbox::collect`]) before it enters the guest again.
///
/// Nothing announces what the processor itself posts between that look and the entry, for its own vCPU or from a device. An IPI to
/// itself would, and so does another look. So a host whose devices may send there asks
/// [`Inbox::wants_attention`] right before the entry.
///
/// `false` if nobody takes it: an I/O APIC then tries again ([`IoApic::service`](super::IoApic::service)).
///
/// # Example
///
/// ```no_run
/// use axerrno::AxResult;
/// use axvcpu::AxArchVCpu;
/// use x86_vcpu::apic::{Effect, Inbox, IoApic, LocalApic, LocalApicConfig, Message, deliver};
/// use x86_vcpu::{PhysFrameHal, VmxVcpu};
///
/// /// The local APICs of a machine with two vCPUs, and where others post to them.
/// fn controllers() -> ([LocalApic; 2], [Inbox; 2]) {
///     let apics = [0, 1].map(|id| LocalApic::new(LocalApicConfig::new(id, id == 0)));
///     let inboxes = [Inbox::new(&apics[0]), Inbox::new(&apics[1])];
///     (apics, inboxes)
/// }
///
/// /// vCPU `place` has written a register of its local APIC, and `effect` came of it. `kick` interrupts the processor where
/// /// another vCPU runs, or wakes that.
/// fn follow(
///     effect: Effect,
///     place: usize,
///     vcpu: &mut VmxVcpu<PhysFrameHal>,
///     inboxes: &[Inbox],
///     io_apic: &mut IoApic,
///     mut kick: impl FnMut(usize),
/// ) -> AxResult {
///     match effect {
///         // An IPI.
///         Effect::Send(message) => _ = deliver(&message, Some(place), inboxes, kick),
///         // The end of an interrupt of a line that may still be asserted.
///         Effect::EndOfInterrupt { vector } => {
///             io_apic.end_of_interrupt(vector, |message| deliver(message, None, inboxes, &mut kick));
///         }
///         // The guest moved the page of registers.
///         Effect::PageMoved { from, to } => {
///             for (page, is_device) in [(from, false), (to, true)] {
///                 if let Some(page) = page {
///                     vcpu.set_mmio_range((page as usize).into(), 0x1000, is_device)?;
///                 }
///             }
///         }
///     }
///     Ok(())
/// }
///
/// /// A device asserts line 4 of the I/O APIC, and another one sends its message (MSI).
/// fn devices(io_apic: &mut IoApic, msi: &Message, inboxes: &[Inbox], mut kick: impl FnMut(usize)) {
///     io_apic.set_line(4, true, |message| deliver(message, None, inboxes, &mut kick));
///     deliver(msi, None, inboxes, &mut kick);
/// }
/// # fn unused(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult { vcpu.bind() }
/// ```
#[doc(alias("ipi", "msi"))]
pub fn deliver<'a>(
    message: &Message,
    sender: Option<usize>,
    inboxes: impl IntoIterator<Item = &'a Inbox>,
    mut kick: impl FnMut(usize),
) -> bool {
    let addressed = inboxes.into_iter().enumerate().filter(|(place, inbox)| {
        let address = inbox.address();
        let is_interrupt = matches!(message.delivery, Delivery::Fixed { .. } | Delivery::LowestPriority { .. });
        address.matches(message.destination, sender == Some(*place)) && (address.accepts || !is_interrupt)
    });
    let mut post = |(place, inbox): (usize, &Inbox)| {
        if inbox.post(message.delivery) && sender != Some(place) {
            kick(place);
        }
    };
    if let Delivery::LowestPriority { .. } = message.delivery {
        // Among equals the first.
        let lowest = addressed.min_by_key(|(_, inbox)| inbox.address().priority);
        return lowest.map(post).is_some();
    }
    let mut taken = false;
    for target in addressed {
        post(target);
        taken = true;
    }
    taken
}
