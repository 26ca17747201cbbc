//! What a device needs of the system: opened by the supervisor, handed to the worker.

use std::io;

use crate::image::Image;
use crate::owned::Owned;

/// The images and the functions that a device is made over.
#[derive(Debug, Default)]
pub struct Opened {
    /// Images, in the order of the specification.
    pub(crate) images: Vec<Image>,
    /// The PCI functions that exist, all of one group.
    pub(crate) functions: Vec<Owned>,
}

impl Opened {
    /// What stands in for it where the device is gone: nothing of a disk, nothing of a function.
    pub(crate) fn stand_ins(&self) -> io::Result<Self> {
        let images = self.images.iter().map(Image::stand_in);
        Ok(Self {
            images: images.collect::<io::Result<_>>()?,
            functions: Vec::new(),
        })
    }
}
