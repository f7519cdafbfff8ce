fn eight(i: u32, lane: Lane) -> Eight {
    return Eight(
        mat4x4<f32>(shared_vec4s[i], shared_vec4s[i + 1u], shared_vec4s[i + 2u], shared_vec4s[i + 3u]),
        mat4x4<f32>(shared_vec4s[i + 4u], shared_vec4s[i + 5u], shared_vec4s[i + 6u], shared_vec4s[i + 7u]),
    );
}
