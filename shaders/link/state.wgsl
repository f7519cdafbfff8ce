// Where a row's state lies: (sequence, position). The body names p.context.
fn state_row(row: vec4<u32>) -> u32 {
    return row.y * p.context + row.z;
}
