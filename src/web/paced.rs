//! Futures that leave the event loop time. The engine gives the thread away after every pass; in JavaScript a task that wakes itself at once
//! would run before any message, timer or click.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use js_sys::{Function, Promise};
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::JsFuture;
use web_time::Instant;

thread_local! {
    /// When the event loop last came to its turn: many short calls must leave it time as one long one does.
    static RESTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// How long the engine may go on before others come to their turn.
const TURN: Duration = Duration::from_millis(8);

/// Wakes the task, and remembers it.
struct Flag {
    task: Waker,
    woken: AtomicBool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

/// Runs a future; where it gives the thread away and has had its [`TURN`], waits for the promise that `rest` gives.
pub(super) async fn paced<T>(future: impl Future<Output = T>, rest: &Function) -> T {
    let mut future = pin!(future);
    loop {
        let polled = std::future::poll_fn(|context| {
            let flag = Arc::new(Flag { task: context.waker().clone(), woken: AtomicBool::new(false) });
            match future.as_mut().poll(&mut std::task::Context::from_waker(&flag.clone().into())) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if flag.woken.load(Ordering::Relaxed) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(output) = polled.await {
            return output;
        }
        if RESTED.get().is_none_or(|rested| rested.elapsed() >= TURN) {
            let turn = rest.call0(&JsValue::NULL).unwrap_or(JsValue::UNDEFINED);
            let _ = JsFuture::from(Promise::resolve(&turn)).await;
            RESTED.set(Some(Instant::now()));
        }
    }
}
