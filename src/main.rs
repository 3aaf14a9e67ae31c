//! The `croupier` command. Everything is in [`croupier::cli`].

fn main() -> std::process::ExitCode {
    croupier::cli::main()
}
