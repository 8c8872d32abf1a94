//! The way of a message: from whoever sends it to the inboxes of those that it is for.

use super::inbox::Inbox;
use super::message::{Delivery, Message};

/// Posts a message to the local APICs that it is for.
///
/// `inboxes` are those of all vCPUs of the machine, in the same order each time, and `sender` is the place in it of the vCPU
/// that sends, for messages that come from one. `kick` is called with the place of each vCPU that has to be told, but not
/// with the sender's: that handles an exit, and looks into its inbox ([`Inbox::collect`]) before it enters the guest again.
///
/// What a processor sends between that look and the entry, be it for its own vCPU or from a device, nobody tells it: an IPI
/// to itself would, and so does another look. A host whose devices may send there asks
/// [`Inbox::wants_attention`] last.
///
/// `false` if nobody takes it: an I/O APIC then tries again ([`IoApic::service`](super::IoApic::service)).
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
