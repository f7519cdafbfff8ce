// Which expert a row's slot is for, and how much it counts. The first p.k slots are the router's choice; those after them belong to the
// shared experts, which always fire and come after the routed ones. The body names p.{k, k_stride, routed}, and ids.
fn slot_expert(row: u32, slot: u32) -> u32 {
    if (slot < p.k) {
        return ids[row * p.k_stride + slot];
    }
    return p.routed + slot - p.k;
}
