// Eight dot products with the same x, which is so read once for all of them. The body names x, of vec4<f32>; w is read through weight8.

// Numbers 8 i … 8 i + 7 of x and of the rows of w that start at `first` and `last`: i counts pairs of vec4s, of which x has n in all.
fn dots_step(first: vec4<u32>, last: vec4<u32>, x_start: u32, n: u32, i: u32) -> mat2x4<f32> {
    let x0 = x[x_start + i];
    // Past the end of an odd row lies the next one, in x as in w.
    let x1 = select(vec4<f32>(), x[x_start + i + 1u], i + 1u < n);
    return mat2x4<f32>(
        vec4<f32>(dot8(first.x + i, x0, x1), dot8(first.y + i, x0, x1), dot8(first.z + i, x0, x1), dot8(first.w + i, x0, x1)),
        vec4<f32>(dot8(last.x + i, x0, x1), dot8(last.y + i, x0, x1), dot8(last.z + i, x0, x1), dot8(last.w + i, x0, x1)),
    );
}

fn dot8(i: u32, x0: vec4<f32>, x1: vec4<f32>) -> f32 {
    let w = weight8(i);
    return dot(w[0], x0) + dot(w[1], x1);
}
