//! Guests and a host with a pattern in every register. What one of them finds of another's is seen at once.

mod guest;
mod host;
mod image;
mod pattern;
mod program;
mod values;

pub use guest::{ALL, PatternedGuest, guest_with_everything_changed};
pub use host::PatternedHost;
pub use image::components;
pub use pattern::Pattern;
pub use program::EXITS;
