// The products of an area of 64 outputs × 32 rows by 64 threads, 8 × 4 a thread. Blocks of w, as numbers, and of x pass through shared
// memory, where each is read by all that need it. The body says where a row of w (`w_at`) and of x (`x_at`) starts, in vec4s, and what
// becomes of 4 × 4 results (`put`).
const AREA_OUTS: u32 = 64u;
const AREA_ROWS: u32 = 32u;
const STEP: u32 = 8u; // vec4s of a row at a time

// Transposed: column k of a block is 16 vec4s of neighbouring outputs, or 8 of neighbouring rows. Their order is turned from one four
// columns to the next, so that threads that store the columns of one row do not meet in a bank.
var<workgroup> area_w: array<vec4<f32>, 512>;
var<workgroup> area_x: array<vec4<f32>, 256>;

// Outputs o … and rows r … of n vec4s each, in batch b. All threads of the workgroup must call it.
fn area(b: u32, o: u32, r: u32, n: u32, lane: Lane) {
    // As a loader: vec4 `column` of four rows of x and of twice four rows of w. Neighbouring threads read neighbouring memory.
    let column = lane.index % STEP;
    let four = lane.index / STEP;
    let out = o + 4u * four;
    let row = r + 4u * four;
    let w0 = vec4<u32>(w_at(b, out), w_at(b, out + 1u), w_at(b, out + 2u), w_at(b, out + 3u));
    let w1 = vec4<u32>(w_at(b, out + 32u), w_at(b, out + 33u), w_at(b, out + 34u), w_at(b, out + 35u));
    let x0 = vec4<u32>(x_at(b, row), x_at(b, row + 1u), x_at(b, row + 2u), x_at(b, row + 3u));
    // As a worker: outputs 4 · column … and 32 + 4 · column … of rows 4 · four … .
    var sums0 = mat4x4<f32>();
    var sums1 = mat4x4<f32>();
    for (var start = 0u; start < n; start += STEP) {
        let i = start + column;
        workgroupBarrier(); // all have read the blocks before
        // Past the end of a row lies the next one.
        let inside = i < n;
        store_w(column, four, weights(select(w0, w0 + i, inside)), inside);
        store_w(column, four + 8u, weights(select(w1, w1 + i, inside)), inside);
        let at = select(x0, x0 + i, inside);
        let block = transpose(mat4x4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]));
        let place = 32u * column + (four ^ column);
        area_x[place] = block[0];
        area_x[place + 8u] = block[1];
        area_x[place + 16u] = block[2];
        area_x[place + 24u] = block[3];
        workgroupBarrier();
        for (var q = 0u; q < STEP; q++) {
            for (var k = 4u * q; k < 4u * q + 4u; k++) {
                let low = area_w[k * 16u + (column ^ q)];
                let high = area_w[k * 16u + ((column + 8u) ^ q)];
                let own = area_x[k * 8u + (four ^ q)];
                sums0 += mat4x4<f32>(low * own.x, low * own.y, low * own.z, low * own.w);
                sums1 += mat4x4<f32>(high * own.x, high * own.y, high * own.z, high * own.w);
            }
        }
    }
    put(b, o + 4u * column, row, sums0);
    put(b, o + 32u + 4u * column, row, sums1);
}

fn store_w(column: u32, four: u32, block: mat4x4<f32>, inside: bool) {
    let columns = transpose(block);
    let place = 64u * column + (four ^ column);
    area_w[place] = select(vec4<f32>(), columns[0], inside);
    area_w[place + 16u] = select(vec4<f32>(), columns[1], inside);
    area_w[place + 32u] = select(vec4<f32>(), columns[2], inside);
    area_w[place + 48u] = select(vec4<f32>(), columns[3], inside);
}
