//! Wires settings into state and router; graceful shutdown.
