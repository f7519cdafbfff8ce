// Where a row's sequence lies in the cache, whose rows are ordered by (slot, sequence, position) and which is cut into parts of
// whole slots. The body names the parameters: p.{slot, per_loop, first_slot, slots, sequences, context, cache_stride}.

// The slot, counted in this part, that a row at this loop uses; not below p.slots where it lies in another part.
fn cache_slot(row_loop: u32) -> u32 {
    // No loop is so large that it comes round to a slot.
    return p.slot + min(p.per_loop * row_loop, 0x7fffffffu) - p.first_slot;
}

// Whether a row's sequence and position lie in the cache: what a row says must not reach another sequence's rows.
fn cache_has(row: vec4<u32>) -> bool {
    return row.y < p.sequences && row.z < p.context;
}

// The word at which position 0 of a sequence starts.
fn cache_start(slot: u32, sequence: u32) -> u32 {
    return (slot * p.sequences + sequence) * p.context * p.cache_stride;
}
