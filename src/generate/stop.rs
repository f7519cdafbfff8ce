//! Stop texts: output is held back while it may be the start of one.

/// Passes text on until a stop text appears.
pub(super) struct Stop {
    stops: Vec<String>,
    held: String,
}

impl Stop {
    /// A filter for these texts; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new() }
    }

    /// Takes new text; gives what may be shown, and whether a stop text was reached (what follows it is dropped).
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        // The longest end of the text that begins a stop text stays back.
        let starts = |from: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*from..]));
        let keep = self.held.char_indices().map(|(at, _)| at).find(starts).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is still held back at the end.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
