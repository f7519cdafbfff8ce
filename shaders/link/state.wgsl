// Where a row's state lies: (sequence, position). The body names p.sequences and p.context.

// Whether it lies anywhere: what a row says must not reach another sequence's states.
fn state_has(row: vec4<u32>) -> bool {
    return row.y < p.sequences && row.z < p.context;
}

fn state_row(row: vec4<u32>) -> u32 {
    return row.y * p.context + row.z;
}
