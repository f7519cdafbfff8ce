//! What `run` prints of a generation: text, ids, tokens with their loops, or JSON. Steps in, strings out.

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::paint::{self, Paint};
use crate::cli::watch::{self, Show};
use crate::generate::{Choice, Halt, Prompt, Role, Step};
use crate::tokenizer::Tokenizer;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// One JSON object
    Json,
    /// One JSON object a token, as it comes
    Jsonl,
}

/// How to print.
#[derive(Clone, Debug)]
pub(super) struct Style {
    pub format: Format,
    /// What the text shows of each token.
    pub show: Option<Show>,
    /// Whether the text is token ids.
    pub ids: bool,
    /// Whether the answer is the predictions at the prompt's tokens.
    pub in_place: bool,
    pub paint: Paint,
}

/// Prints one generation.
pub(super) struct Printer<'a> {
    style: &'a Style,
    steps: Vec<Step>,
    /// Counts of tokens whose text is not complete yet.
    held: String,
}

/// What the JSON says about the whole.
pub(super) struct About<'a> {
    pub model: &'a str,
    pub device: &'a str,
    pub prompt: &'a Prompt,
    /// The cap.
    pub loops: usize,
    pub tokenizer: Option<&'a Tokenizer>,
}

impl<'a> Printer<'a> {
    pub fn new(style: &'a Style) -> Self {
        Self { style, steps: Vec::new(), held: String::new() }
    }

    /// What can be printed with this step; often all there is of it.
    pub fn step(&mut self, step: Step, tokenizer: Option<&Tokenizer>) -> String {
        let text = match (self.style.format, self.style.show) {
            (Format::Text, Some(show)) if show != Show::Loops => {
                watch::lines(show, &step, self.steps.is_empty(), tokenizer.filter(|_| !self.style.ids))
            }
            _ => self.plain(&step),
        };
        self.steps.push(step);
        text
    }

    fn plain(&mut self, step: &Step) -> String {
        match self.style.format {
            Format::Jsonl => line(&JsonStep::from(step)),
            Format::Text if !self.style.in_place => self.output(step),
            Format::Text | Format::Json => String::new(),
        }
    }

    /// How many tokens the tokenizer put before a text: nobody asked for an answer there.
    fn added(&self, about: &About) -> usize {
        let (Prompt::Text(_), Some(Ok(before))) = (about.prompt, about.tokenizer.map(|tokenizer| tokenizer.encode(""))) else { return 0 };
        self.steps.iter().zip(before).take_while(|(step, id)| step.token == *id).count()
    }

    /// What remains to be printed at the end.
    pub fn finish(&self, about: &About) -> String {
        let style = self.style;
        match style.format {
            Format::Jsonl => String::new(),
            Format::Json => line(&self.json(about)),
            // All was said as it came.
            Format::Text if style.show.is_some_and(|show| show != Show::Loops) => String::new(),
            Format::Text if style.in_place && style.show.is_some() => {
                paint::rows(&self.steps.iter().map(|step| self.column(step, about)).collect::<Vec<_>>(), 0)
            }
            Format::Text if style.in_place => {
                let typed = self.steps.iter().skip(self.added(about));
                format!("{}\n", typed.map(|step| self.name(&step.next)).collect::<Vec<_>>().join(" "))
            }
            Format::Text => format!("{}\n", self.held),
        }
    }

    /// One sentence about the work done; `None` if there was none.
    pub fn summary(&self) -> Option<String> {
        let loops = Loops::of(&self.steps, 0)?;
        let ms: f64 = self.steps.iter().map(milliseconds).sum();
        Some(format!("{} tokens in {ms:.1} ms, {:.1} loops on average, {} at most", self.steps.len(), loops.mean, loops.max))
    }

    /// A token of a continuing answer.
    fn output(&mut self, step: &Step) -> String {
        let style = self.style;
        let text = if style.ids { step.token.to_string() } else { step.text.clone() };
        let space = if style.ids && !self.steps.is_empty() { " " } else { "" };
        if style.show.is_none() {
            return format!("{space}{text}");
        }
        let count = paint::count(step.loops, step.exit);
        let word = text.trim();
        if word.is_empty() {
            // Part of a character, or space alone: the count waits for something to stand beside.
            self.held.push_str(&count);
            return text;
        }
        let held = std::mem::take(&mut self.held);
        let (before, after) = text.split_once(word).unwrap_or_default();
        // Neighbours without a space between them would read as one word.
        let gap = if before.is_empty() && !self.steps.is_empty() { " " } else { before };
        format!("{gap}{}{after}", style.paint.token(&format!("{word}{held}"), step.loops, step.exit))
    }

    /// A token of the prompt with the prediction below it.
    fn column(&self, step: &Step, about: &About) -> [paint::Cell; 2] {
        let name = watch::name(about.tokenizer.filter(|_| !self.style.ids), step.token);
        [self.style.paint.token(&name, step.loops, step.exit), self.name(&step.next).into()]
    }

    fn name(&self, choice: &Choice) -> String {
        if self.style.ids { choice.token.to_string() } else { paint::visible(&choice.text) }
    }

    fn json<'s>(&'s self, about: &'s About) -> JsonAnswer<'s> {
        let next = |step: &'s Step| step.next.text.as_str();
        let text = || self.steps.iter().map(|step| step.text.as_str()).collect();
        JsonAnswer {
            model: about.model,
            device: about.device,
            prompt: match about.prompt {
                Prompt::Text(text) => JsonPrompt::Text(text),
                Prompt::Tokens(tokens) => JsonPrompt::Tokens(tokens),
            },
            text: (!self.style.in_place).then(text),
            predictions: self.style.in_place.then(|| self.steps.iter().map(next).collect()),
            loops: Loops::of(&self.steps, about.loops),
            steps: self.steps.iter().map(JsonStep::from).collect(),
        }
    }
}

/// One value as one line. Numbers that are not finite become null.
pub(super) fn line(value: &impl Serialize) -> String {
    // Strings, numbers and lists: serializing them cannot fail.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn milliseconds(step: &Step) -> f64 {
    step.time.as_secs_f64() * 1e3
}

#[derive(Serialize)]
struct JsonAnswer<'a> {
    model: &'a str,
    device: &'a str,
    prompt: JsonPrompt<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<&'a str>>,
    loops: Option<Loops>,
    steps: Vec<JsonStep<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonPrompt<'a> {
    Text(&'a str),
    Tokens(&'a [u32]),
}

/// The loops of all steps.
#[derive(Serialize)]
struct Loops {
    cap: usize,
    mean: f64,
    max: usize,
    /// Tokens that the cap ended.
    capped: usize,
}

impl Loops {
    fn of(steps: &[Step], cap: usize) -> Option<Self> {
        let max = steps.iter().map(|step| step.loops).max()?;
        let sum: usize = steps.iter().map(|step| step.loops).sum();
        let capped = steps.iter().filter(|step| step.exit == Halt::Max).count();
        Some(Self { cap, mean: (1e3 * sum as f64 / steps.len() as f64).round() / 1e3, max, capped })
    }
}

/// One step.
#[derive(Serialize)]
pub(super) struct JsonStep<'a> {
    index: usize,
    role: &'static str,
    token: u32,
    text: &'a str,
    logprob: Option<f32>,
    loops: usize,
    exit: &'static str,
    ms: f64,
    next: JsonChoice<'a>,
}

#[derive(Serialize)]
struct JsonChoice<'a> {
    token: u32,
    text: &'a str,
    logprob: f32,
}

impl<'a> From<&'a Step> for JsonStep<'a> {
    fn from(step: &'a Step) -> Self {
        let next = JsonChoice { token: step.next.token, text: &step.next.text, logprob: step.next.logprob };
        Self {
            index: step.index,
            role: match step.role {
                Role::Prompt => "prompt",
                Role::Output => "output",
            },
            token: step.token,
            text: &step.text,
            logprob: step.logprob,
            loops: step.loops,
            exit: match step.exit {
                Halt::Halted => "halted",
                Halt::Max => "max",
                Halt::Fixed => "fixed",
            },
            ms: (milliseconds(step) * 1e3).round() / 1e3,
            next,
        }
    }
}
