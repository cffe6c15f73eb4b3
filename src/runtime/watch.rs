//! The newest value of something, for those who follow it: as `tokio::sync::watch`, except that who waits is woken in the order
//! in which they came. tokio draws that order from a generator that no seed repeats, and a simulation has to be repeated.
//!
//! Values in between may be skipped. Readers share a lock that writers hold for the change alone.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use thiserror::Error;
use tokio::sync::Notify;

/// Nobody changes the value any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nobody changes the value any more")]
pub struct Closed;

struct Versioned<T> {
    value: T,
    version: u64,
    is_closed: bool,
}

struct Shared<T> {
    newest: RwLock<Versioned<T>>,
    changed: Notify,
}

/// Changes the value. When it is dropped, followers learn that nothing follows.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Follows the value. It has seen what there was when it was made.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value, for as long as this is held; nobody changes it meanwhile.
pub struct Borrowed<'a, T>(MappedRwLockReadGuard<'a, T>);

impl<T> Deref for Borrowed<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value and who follows it.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Shared<T> {
    fn borrow(&self) -> Borrowed<'_, T> {
        Borrowed(RwLockReadGuard::map(self.newest.read(), |newest| &newest.value))
    }
}

impl<T> Sender<T> {
    /// A value that nobody follows yet.
    pub fn new(value: T) -> Self {
        let newest = RwLock::new(Versioned { value, version: 0, is_closed: false });
        Self { shared: Arc::new(Shared { newest, changed: Notify::new() }) }
    }

    /// Another follower.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { shared: Arc::clone(&self.shared), seen: self.shared.newest.read().version }
    }

    /// The value.
    pub fn borrow(&self) -> Borrowed<'_, T> {
        self.shared.borrow()
    }

    /// Changes the value.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Puts another value in its place.
    pub fn send_replace(&self, value: T) -> T {
        let mut before = None;
        self.send_modify(|newest| before = Some(std::mem::replace(newest, value)));
        before.expect("it was replaced")
    }

    /// Changes the value, and tells followers if the change says so.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let is_changed = {
            let mut newest = self.shared.newest.write();
            let is_changed = change(&mut newest.value);
            newest.version += u64::from(is_changed);
            is_changed
        };
        if is_changed {
            self.shared.changed.notify_waiters();
        }
        is_changed
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.newest.write().is_closed = true;
        self.shared.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// The value.
    pub fn borrow(&self) -> Borrowed<'_, T> {
        self.shared.borrow()
    }

    /// The value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Borrowed<'_, T> {
        let newest = self.shared.newest.read();
        self.seen = newest.version;
        Borrowed(RwLockReadGuard::map(newest, |newest| &newest.value))
    }

    /// Has what there is count as seen.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.newest.read().version;
    }

    /// Whether there is something that was not seen.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn has_changed(&self) -> Result<bool, Closed> {
        let newest = self.shared.newest.read();
        if newest.is_closed { Err(Closed) } else { Ok(newest.version != self.seen) }
    }

    /// Waits for something that was not seen, which counts as seen then.
    ///
    /// # Errors
    /// [`Closed`], once all was seen.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // It hears of every change from here on, also before it is awaited.
            let changed = self.shared.changed.notified();
            {
                let newest = self.shared.newest.read();
                if newest.version != self.seen {
                    self.seen = newest.version;
                    return Ok(());
                }
                if newest.is_closed {
                    return Err(Closed);
                }
            }
            changed.await;
        }
    }

    /// Waits until the value is as wanted.
    ///
    /// # Errors
    /// [`Closed`]: it will not be any more.
    pub async fn wait_for(&mut self, mut is_wanted: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        loop {
            if is_wanted(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn followers_see_the_newest_value_and_its_end() {
        let (sender, mut receiver) = channel(1);
        assert!(!receiver.has_changed().unwrap());
        sender.send_replace(2);
        sender.send_modify(|value| *value += 1);
        assert!(receiver.has_changed().unwrap());
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow(), 3);
        assert!(!sender.send_if_modified(|_| false));
        assert!(!receiver.has_changed().unwrap());
        sender.send_replace(4);
        drop(sender);
        receiver.changed().await.unwrap();
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(receiver.wait_for(|value| *value == 4).await, Ok(()), "it is so already");
        assert_eq!(receiver.wait_for(|value| *value == 5).await, Err(Closed));
    }

    #[tokio::test]
    async fn those_who_wait_are_woken_in_the_order_in_which_they_came() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let wait = |number: usize| {
            let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
            tokio::spawn(async move {
                receiver.changed().await.unwrap();
                woken.lock().push(number);
            })
        };
        let waiting: Vec<_> = (0..40).map(wait).collect();
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock(), Vec::from_iter(0..40));
    }
}
