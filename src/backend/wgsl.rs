//! A kernel's full shader text: a header of constants, the linked parts, the body. Which files are linked is the permutation.

use crate::kernel::{AnyKernel, Link, Tier};
use crate::precision::Precision;

/// The text that a device compiles for `kernel` under `tier`, with weights in `precision`.
pub fn source(kernel: &dyn AnyKernel, tier: &Tier, precision: Precision) -> String {
    let constants = [("WORKGROUP", tier.workgroup), ("SIDE", tier.side()), ("LANES", tier.lanes)];
    let mut text: String = constants.iter().map(|(name, value)| format!("const {name}: u32 = {value}u;\n")).collect();
    for link in kernel.links() {
        if *link == Link::Weight && precision.is_quantized() {
            text.push_str(include_str!("../../shaders/link/weight_scale.wgsl"));
        }
        if *link == Link::Area {
            text.push_str(include_str!("../../shaders/link/area.wgsl"));
        }
        if *link == Link::Dots {
            text.push_str(include_str!("../../shaders/link/dots.wgsl"));
        }
        if *link == Link::Eight {
            text.push_str(include_str!("../../shaders/link/eight.wgsl"));
        }
        text.push_str(match link {
            Link::Reduce if tier.subgroups => include_str!("../../shaders/link/reduce_subgroup.wgsl"),
            Link::Reduce => include_str!("../../shaders/link/reduce_workgroup.wgsl"),
            Link::Reduce8 if tier.subgroups => include_str!("../../shaders/link/reduce8_subgroup.wgsl"),
            Link::Reduce8 => include_str!("../../shaders/link/reduce8_workgroup.wgsl"),
            Link::Eight if tier.lanes == 1 && tier.subgroups => include_str!("../../shaders/link/eight_subgroup.wgsl"),
            Link::Eight => include_str!("../../shaders/link/eight_direct.wgsl"),
            Link::Best => include_str!("../../shaders/link/best.wgsl"),
            Link::TeamSum => include_str!("../../shaders/link/team_sum.wgsl"),
            Link::Dots if tier.lanes == 1 => include_str!("../../shaders/link/dots_thread.wgsl"),
            Link::Dots if tier.subgroups => include_str!("../../shaders/link/dots_subgroup.wgsl"),
            Link::Dots => include_str!("../../shaders/link/dots_workgroup.wgsl"),
            Link::Area if tier.lanes > 1 => include_str!("../../shaders/link/area_shared.wgsl"),
            Link::Area if tier.subgroups => include_str!("../../shaders/link/area_subgroup.wgsl"),
            Link::Area => include_str!("../../shaders/link/area_direct.wgsl"),
            Link::Weight => match precision {
                Precision::F32 => include_str!("../../shaders/link/weight_f32.wgsl"),
                Precision::F16 => include_str!("../../shaders/link/weight_f16.wgsl"),
                Precision::Q8 => include_str!("../../shaders/link/weight_q8.wgsl"),
                Precision::Q4 => include_str!("../../shaders/link/weight_q4.wgsl"),
            },
            Link::RopeTurn => include_str!("../../shaders/link/rope_turn.wgsl"),
            Link::Slot => include_str!("../../shaders/link/slot.wgsl"),
            Link::Cache => include_str!("../../shaders/link/cache.wgsl"),
            Link::State => include_str!("../../shaders/link/state.wgsl"),
            Link::Gate => include_str!("../../shaders/link/gate.wgsl"),
        });
    }
    text.push_str(kernel.body());
    text
}
