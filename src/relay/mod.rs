//! The heart: hands a sealed token to whoever waits for it.
