//! Text that must not reach a log: `Debug` redacts it and its memory is wiped on drop.

/// Declares such a newtype of a string.
macro_rules! redacted_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name($crate::util::wiped::WipedText);

        impl $name {
            /// The text in clear, to be sent to its owner and to nobody else.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}
pub(crate) use redacted_text;
