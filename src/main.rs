//! The program `refrain`: everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    refrain::cli::main()
}
