// Eight neighbouring vec4s of shared memory, which every thread wants. The body names the memory: shared_vec4s.
struct Eight {
    low: mat4x4<f32>,
    high: mat4x4<f32>,
}

