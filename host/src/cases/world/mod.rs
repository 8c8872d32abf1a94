//! The world switch: a guest's state is the guest's, the host's is the host's.

pub mod barriers;
mod host;
pub mod hostile;
mod image;
pub mod moves;
pub mod nmi;
pub mod owners;
mod pattern;
pub mod patterns;
mod program;
pub mod speculation;
pub mod uses;
mod values;

pub use host::PatternedHost;
pub use image::components;
pub use pattern::Pattern;
pub use patterns::guest_with_everything_changed;
