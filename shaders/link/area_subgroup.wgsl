// The products of an area of outputs and rows, 8 × 32 a thread: for devices where a subgroup is a vector register of a processor, whose
// loads cost many times its arithmetic. A subgroup reads eight rows of x at once, one a lane, and hands each number round.
// The body says where a row of w (`w_at`) and of x (`x_at`) starts, in vec4s, and what becomes of 4 × 4 results (`put`).
const AREA_OUTS: u32 = 8u * WORKGROUP;
const AREA_ROWS: u32 = 32u;

// Outputs o … and rows r … of n vec4s each, in batch b. All threads of the workgroup must call it; subgroups have eight threads at least.
fn area(b: u32, o: u32, r: u32, n: u32, lane: Lane) {
    let out = o + 8u * lane.index;
    let own = r + lane.in_subgroup % 8u;
    let w0 = vec4<u32>(w_at(b, out), w_at(b, out + 1u), w_at(b, out + 2u), w_at(b, out + 3u));
    let w1 = vec4<u32>(w_at(b, out + 4u), w_at(b, out + 5u), w_at(b, out + 6u), w_at(b, out + 7u));
    let x0 = vec4<u32>(x_at(b, own), x_at(b, own + 8u), x_at(b, own + 16u), x_at(b, own + 24u));
    var a0 = mat4x4<f32>();
    var a1 = mat4x4<f32>();
    var a2 = mat4x4<f32>();
    var a3 = mat4x4<f32>();
    var a4 = mat4x4<f32>();
    var a5 = mat4x4<f32>();
    var a6 = mat4x4<f32>();
    var a7 = mat4x4<f32>();
    var b0 = mat4x4<f32>();
    var b1 = mat4x4<f32>();
    var b2 = mat4x4<f32>();
    var b3 = mat4x4<f32>();
    var b4 = mat4x4<f32>();
    var b5 = mat4x4<f32>();
    var b6 = mat4x4<f32>();
    var b7 = mat4x4<f32>();
    for (var i = 0u; i < n; i++) {
        let low = weights(w0 + i);
        let high = weights(w1 + i);
        let x01 = x[x0.x + i];
        let r0 = rows_0_to_3(x01);
        a0 += products(low, r0);
        b0 += products(high, r0);
        let r1 = rows_4_to_7(x01);
        a1 += products(low, r1);
        b1 += products(high, r1);
        let x23 = x[x0.y + i];
        let r2 = rows_0_to_3(x23);
        a2 += products(low, r2);
        b2 += products(high, r2);
        let r3 = rows_4_to_7(x23);
        a3 += products(low, r3);
        b3 += products(high, r3);
        let x45 = x[x0.z + i];
        let r4 = rows_0_to_3(x45);
        a4 += products(low, r4);
        b4 += products(high, r4);
        let r5 = rows_4_to_7(x45);
        a5 += products(low, r5);
        b5 += products(high, r5);
        let x67 = x[x0.w + i];
        let r6 = rows_0_to_3(x67);
        a6 += products(low, r6);
        b6 += products(high, r6);
        let r7 = rows_4_to_7(x67);
        a7 += products(low, r7);
        b7 += products(high, r7);
    }
    put8(b, out, r, a0, b0);
    put8(b, out, r + 4u, a1, b1);
    put8(b, out, r + 8u, a2, b2);
    put8(b, out, r + 12u, a3, b3);
    put8(b, out, r + 16u, a4, b4);
    put8(b, out, r + 20u, a5, b5);
    put8(b, out, r + 24u, a6, b6);
    put8(b, out, r + 28u, a7, b7);
}

fn put8(b: u32, o: u32, r: u32, low: mat4x4<f32>, high: mat4x4<f32>) {
    put(b, o, r, low);
    put(b, o + 4u, r, high);
}

fn rows_0_to_3(own: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u));
}

fn rows_4_to_7(own: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u));
}
