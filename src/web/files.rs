//! A model's files, read by JavaScript.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::sync::Arc;

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;

use crate::model::files::{Reader, Source};

#[wasm_bindgen]
unsafe extern "C" {
    /// The files of one model: see files.ts.
    pub type FileReader;

    #[wasm_bindgen(method)]
    fn names(this: &FileReader) -> Vec<String>;

    #[wasm_bindgen(method)]
    fn size(this: &FileReader, file: &str) -> Option<f64>;

    /// Fills `into`, or throws.
    #[wasm_bindgen(method, catch)]
    fn read(this: &FileReader, file: &str, offset: f64, into: &Uint8Array) -> Result<(), JsValue>;
}

thread_local! {
    /// A source may go to another thread, an object of JavaScript may not: a source has its number.
    static READERS: RefCell<HashMap<usize, FileReader>> = RefCell::default();
}

/// The files of a model while it is loaded.
#[derive(Debug)]
pub(super) struct JsFiles(usize);

impl JsFiles {
    pub fn new(reader: FileReader) -> Self {
        READERS.with_borrow_mut(|readers| {
            let number = (0..).find(|number| !readers.contains_key(number)).unwrap_or_default();
            readers.insert(number, reader);
            Self(number)
        })
    }

    /// A source of these files.
    pub fn source(self, name: &str) -> Source {
        Source::Reader { name: name.to_string(), files: Arc::new(self) }
    }

    fn ask<T>(&self, ask: impl FnOnce(&FileReader) -> T) -> Option<T> {
        READERS.with_borrow(|readers| readers.get(&self.0).map(ask))
    }
}

impl Drop for JsFiles {
    fn drop(&mut self) {
        READERS.with_borrow_mut(|readers| readers.remove(&self.0));
    }
}

impl Reader for JsFiles {
    fn names(&self) -> Vec<String> {
        self.ask(FileReader::names).unwrap_or_default()
    }

    fn length(&self, file: &str) -> Option<u64> {
        self.ask(|reader| reader.size(file)).flatten().map(|bytes| bytes as u64)
    }

    fn read(&self, file: &str, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        let bytes = Uint8Array::new_with_length(into.len() as u32);
        match self.ask(|reader| reader.read(file, offset as f64, &bytes)) {
            Some(Ok(())) => {
                bytes.copy_to(into);
                Ok(())
            }
            Some(Err(fault)) => Err(Error::other(js_sys::Error::from(fault).message().as_string().unwrap_or_default())),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}
