//! What the fuzz targets share: the doors that they feed, and the inputs that they start from.
//!
//! The doors are also compiled into the crate's own tests (`tests/findings.rs`), which play what was found once again.

pub mod doors;
pub mod seeds;

// The judges that random models are tried by in the crate's tests.
#[allow(dead_code, unused_imports)]
#[path = "../../tests/devices.rs"]
mod devices;
mod lazy;
#[allow(dead_code, unused_imports)]
#[path = "../../tests/random.rs"]
mod random;
