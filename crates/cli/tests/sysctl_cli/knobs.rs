//! What knobs do to flows.
