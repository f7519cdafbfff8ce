// The products of an area of outputs and rows, 8 × 8 a thread, read straight from memory: for devices where a thread is a lane of a
// processor. The body says where a row of w (`w_at`) and of x (`x_at`) starts, in vec4s, and what becomes of 4 × 4 results (`put`).
const AREA_OUTS: u32 = 8u * SIDE;
const AREA_ROWS: u32 = 8u * SIDE;

// Outputs o … and rows r … of n vec4s each, in batch b. All threads of the workgroup must call it.
fn area(b: u32, o: u32, r: u32, n: u32, lane: Lane) {
    let out = o + 8u * (lane.index % SIDE);
    let row = r + 8u * (lane.index / SIDE);
    let w0 = vec4<u32>(w_at(b, out), w_at(b, out + 1u), w_at(b, out + 2u), w_at(b, out + 3u));
    let w1 = vec4<u32>(w_at(b, out + 4u), w_at(b, out + 5u), w_at(b, out + 6u), w_at(b, out + 7u));
    let x0 = vec4<u32>(x_at(b, row), x_at(b, row + 1u), x_at(b, row + 2u), x_at(b, row + 3u));
    let x1 = vec4<u32>(x_at(b, row + 4u), x_at(b, row + 5u), x_at(b, row + 6u), x_at(b, row + 7u));
    var sums00 = mat4x4<f32>();
    var sums01 = mat4x4<f32>();
    var sums10 = mat4x4<f32>();
    var sums11 = mat4x4<f32>();
    for (var i = 0u; i < n; i++) {
        let low = weights(w0 + i);
        let high = weights(w1 + i);
        let c = rows(x0 + i);
        sums00 += products(low, c);
        sums10 += products(high, c);
        let d = rows(x1 + i);
        sums01 += products(low, d);
        sums11 += products(high, d);
    }
    put(b, out, row, sums00);
    put(b, out + 4u, row, sums10);
    put(b, out, row + 4u, sums01);
    put(b, out + 4u, row + 4u, sums11);
}

fn rows(at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]);
}
