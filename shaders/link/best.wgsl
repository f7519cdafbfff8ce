// The best (value, id) of a workgroup: the largest value, and of equal ones the lowest id.
const LOWEST: f32 = -0x1.fffffep+127; // the lowest finite number
const NO_ID: u32 = 0xffffffffu;

struct Best {
    value: f32,
    id: u32,
}

var<workgroup> best_scratch: array<Best, WORKGROUP>;

fn is_better(a: Best, b: Best) -> bool {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// The best of every thread's. All threads of the workgroup must call it.
fn reduce_best(own: Best, thread: u32) -> Best {
    workgroupBarrier(); // the result of an earlier call has been read by all
    best_scratch[thread] = own;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if (thread < half) {
            let other = best_scratch[thread + half];
            if (is_better(other, best_scratch[thread])) {
                best_scratch[thread] = other;
            }
        }
        workgroupBarrier();
    }
    return best_scratch[0];
}
