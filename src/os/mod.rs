//! What is of one system only, shaped as `std::os`: std's own, with our sockets in the place of its.

#[doc(no_inline)]
pub use std::os::*;

pub mod linux {
    //! Linux, shaped as `std::os::linux`.

    #[doc(no_inline)]
    pub use std::os::linux::*;

    pub mod net;
}

pub mod unix {
    //! Unix, shaped as `std::os::unix`.

    #[doc(no_inline)]
    pub use std::os::unix::*;

    pub mod net;
}
