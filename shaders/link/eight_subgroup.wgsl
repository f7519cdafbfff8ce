// For devices whose loads cost many times their arithmetic: a thread reads one, and they are handed round. All threads of a subgroup
// must call it with the same i; subgroups have eight threads at least.
fn eight(i: u32, lane: Lane) -> Eight {
    let own = shared_vec4s[i + lane.in_subgroup % 8u];
    return Eight(
        mat4x4<f32>(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u)),
        mat4x4<f32>(subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u)),
    );
}
