//! The three ways to look at one function.

/// What a user sees of a function, and what its writes may do. One code path over different columns of the
/// same tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum View {
    /// The abstract device: only registers that the model declares exist, every other byte reads 0, and a
    /// write does exactly what the table says.
    #[default]
    Virtual,
    /// The real registers, with writes stopped that would disrupt the system (BARs, ROM, message address and
    /// data, MSI-X table, link control).
    Filtered,
    /// The real registers, and every write reaches them. Its user is inside the trusted base.
    Raw,
}

impl View {
    /// All views, in the order of their trust in the user, least first.
    pub const ALL: [View; 3] = [View::Virtual, View::Filtered, View::Raw];

    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            View::Virtual => "virtual",
            View::Filtered => "filtered",
            View::Raw => "raw",
        }
    }
}
