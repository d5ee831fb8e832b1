//! Methods and traits that several kinds of socket have, word for word: written once, here.
//!
//! The first argument of each is our type; std's is named where it differs in path only.

/// `try_clone`, `take_error`, `set_nonblocking`.
macro_rules! common_methods {
    ($Name:ident, $std:literal) => {
        /// Another descriptor of the same socket.
        ///
        /// Timeouts and non-blocking mode are shared: set on one, they hold for both.
        #[doc = concat!("Mirrors [`", $std, "::try_clone`].")]
        ///
        /// # Errors
        /// No descriptor is left.
        pub fn try_clone(&self) -> ::std::io::Result<$Name> {
            let copy = self.socket.std().try_clone()?;
            Ok($Name { socket: self.socket.share(copy) })
        }

        /// The error that is pending on the socket (`SO_ERROR`), if any; it is taken off.
        ///
        #[doc = concat!("Mirrors [`", $std, "::take_error`].")]
        ///
        /// # Errors
        /// The descriptor is not a socket, or was closed behind our back.
        pub fn take_error(&self) -> ::std::io::Result<Option<::std::io::Error>> {
            self.socket.std().take_error()
        }

        /// Whether calls that would wait fail with [`WouldBlock`](std::io::ErrorKind::WouldBlock)
        /// instead; for all clones.
        ///
        /// Only needed where std's would be: calls in blocking mode suspend the greenlet, not the
        /// thread.
        #[doc = concat!("Mirrors [`", $std, "::set_nonblocking`].")]
        ///
        /// # Errors
        /// The descriptor was closed behind our back.
        pub fn set_nonblocking(&self, nonblocking: bool) -> ::std::io::Result<()> {
            self.socket.set_nonblocking(nonblocking)
        }
    };
}

/// `ttl`, `set_ttl`.
macro_rules! ttl_methods {
    ($std:literal) => {
        /// Sets the time to live of what is sent (`IP_TTL`): how many routers it may pass.
        ///
        #[doc = concat!("Mirrors [`", $std, "::set_ttl`].")]
        ///
        /// # Errors
        /// It is 0 or above 255.
        pub fn set_ttl(&self, ttl: u32) -> ::std::io::Result<()> {
            self.socket.std().set_ttl(ttl)
        }

        /// The time to live of what is sent (`IP_TTL`).
        ///
        #[doc = concat!("Mirrors [`", $std, "::ttl`].")]
        ///
        /// # Errors
        /// The kernel does not say.
        pub fn ttl(&self) -> ::std::io::Result<u32> {
            self.socket.std().ttl()
        }
    };
}

/// `set_read_timeout`, `set_write_timeout`, `read_timeout`, `write_timeout`.
macro_rules! timeout_methods {
    ($std:literal) => {
        /// The longest that one read waits; `None`: for ever. For all clones.
        ///
        /// A read that waits longer fails with [`WouldBlock`](std::io::ErrorKind::WouldBlock), as
        /// std's does on Linux. For a limit on several calls together see
        /// [`timeout`](crate::timeout()).
        #[doc = concat!("Mirrors [`", $std, "::set_read_timeout`].")]
        ///
        /// # Errors
        /// [`InvalidInput`](std::io::ErrorKind::InvalidInput): it is zero.
        pub fn set_read_timeout(&self, timeout: Option<::std::time::Duration>) -> ::std::io::Result<()> {
            self.socket.std().set_read_timeout(timeout)?;
            self.socket.set_limit($crate::hub::poller::Side::Read, timeout);
            Ok(())
        }

        /// The longest that one write waits; `None`: for ever. For all clones.
        ///
        /// As for [`set_read_timeout`](Self::set_read_timeout).
        #[doc = concat!("Mirrors [`", $std, "::set_write_timeout`].")]
        ///
        /// # Errors
        /// [`InvalidInput`](std::io::ErrorKind::InvalidInput): it is zero.
        pub fn set_write_timeout(&self, timeout: Option<::std::time::Duration>) -> ::std::io::Result<()> {
            self.socket.std().set_write_timeout(timeout)?;
            self.socket.set_limit($crate::hub::poller::Side::Write, timeout);
            Ok(())
        }

        /// The longest that one read waits, as the kernel tells it: rounded up to its clock's ticks,
        /// though the waits themselves are exact.
        ///
        #[doc = concat!("Mirrors [`", $std, "::read_timeout`].")]
        ///
        /// # Errors
        /// The kernel does not say.
        pub fn read_timeout(&self) -> ::std::io::Result<Option<::std::time::Duration>> {
            self.socket.std().read_timeout()
        }

        /// The longest that one write waits, as the kernel tells it.
        ///
        #[doc = concat!("Mirrors [`", $std, "::write_timeout`].")]
        ///
        /// # Errors
        /// The kernel does not say.
        pub fn write_timeout(&self) -> ::std::io::Result<Option<::std::time::Duration>> {
            self.socket.std().write_timeout()
        }
    };
}

/// Conversions from and to std's type and descriptors, and `Debug` as std's.
macro_rules! descriptor_traits {
    ($Name:ident, $Std:ty) => {
        impl ::std::os::fd::AsFd for $Name {
            fn as_fd(&self) -> ::std::os::fd::BorrowedFd<'_> {
                self.socket.std().as_fd()
            }
        }

        impl ::std::os::fd::AsRawFd for $Name {
            fn as_raw_fd(&self) -> ::std::os::fd::RawFd {
                ::std::os::fd::AsRawFd::as_raw_fd(self.socket.std())
            }
        }

        /// Takes std's socket, blocking or not, with its timeouts.
        impl From<$Std> for $Name {
            fn from(std: $Std) -> Self {
                Self { socket: $crate::net::socket::Socket::adopt(std) }
            }
        }

        /// Gives std's socket back, blocking or not, with its timeouts.
        impl From<$Name> for $Std {
            fn from(ours: $Name) -> Self {
                ours.socket.release()
            }
        }

        impl From<::std::os::fd::OwnedFd> for $Name {
            fn from(fd: ::std::os::fd::OwnedFd) -> Self {
                Self::from(<$Std>::from(fd))
            }
        }

        impl From<$Name> for ::std::os::fd::OwnedFd {
            fn from(ours: $Name) -> Self {
                ours.socket.release().into()
            }
        }

        impl ::std::os::fd::IntoRawFd for $Name {
            fn into_raw_fd(self) -> ::std::os::fd::RawFd {
                ::std::os::fd::IntoRawFd::into_raw_fd(self.socket.release())
            }
        }

        impl ::std::os::fd::FromRawFd for $Name {
            unsafe fn from_raw_fd(fd: ::std::os::fd::RawFd) -> Self {
                // SAFETY: the caller promises that the descriptor is open and nobody else's.
                Self::from(unsafe { <::std::os::fd::OwnedFd as ::std::os::fd::FromRawFd>::from_raw_fd(fd) })
            }
        }

        impl ::std::fmt::Debug for $Name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Debug::fmt(self.socket.std(), f)
            }
        }
    };
}

/// `Read` and `Write` for a stream and for a reference to it.
macro_rules! stream_traits {
    ($($Name:ty),*) => { $(
        impl ::std::io::Read for $Name {
            #[inline]
            fn read(&mut self, buf: &mut [u8]) -> ::std::io::Result<usize> {
                self.socket.recv(buf)
            }
            fn read_vectored(&mut self, bufs: &mut [::std::io::IoSliceMut<'_>]) -> ::std::io::Result<usize> {
                self.socket.recv_vectored(bufs)
            }
        }

        impl ::std::io::Write for $Name {
            #[inline]
            fn write(&mut self, buf: &[u8]) -> ::std::io::Result<usize> {
                self.socket.send(buf)
            }
            fn write_vectored(&mut self, bufs: &[::std::io::IoSlice<'_>]) -> ::std::io::Result<usize> {
                self.socket.send_vectored(bufs)
            }
            /// Does nothing: there is no buffer of ours.
            fn flush(&mut self) -> ::std::io::Result<()> {
                Ok(())
            }
        }
    )* };
}

/// `Incoming` over a listener.
macro_rules! incoming {
    ($Incoming:ident, $Listener:ident, $Stream:ident, $std:literal) => {
        /// The connections of a listener, without end: from its `incoming` method.
        ///
        #[doc = concat!("Mirrors [`", $std, "`].")]
        #[derive(Debug)]
        pub struct $Incoming<'a> {
            listener: &'a $Listener,
        }

        impl Iterator for $Incoming<'_> {
            type Item = ::std::io::Result<$Stream>;
            fn next(&mut self) -> Option<Self::Item> {
                Some(self.listener.accept().map(|(stream, _)| stream))
            }
            fn size_hint(&self) -> (usize, Option<usize>) {
                (usize::MAX, None)
            }
        }
    };
}

pub(crate) use {common_methods, descriptor_traits, incoming, stream_traits, timeout_methods, ttl_methods};
