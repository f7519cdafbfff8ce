//! Cases and judges of `tests/lazy.rs`.

#[path = "../../tests/lazy/batch.rs"]
mod batch;
#[allow(dead_code)]
#[path = "../../tests/lazy/case.rs"]
pub mod case;
#[path = "../../tests/lazy/check.rs"]
pub mod check;
#[path = "../../tests/lazy/judge.rs"]
mod judge;
#[path = "../../tests/lazy/play.rs"]
mod play;
