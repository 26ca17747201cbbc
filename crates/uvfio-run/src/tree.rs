//! What the program is to find where the kernel's VFIO would have it: folders, files and links, as data.
//!
//! It is made by the process that has the devices and placed by the one that becomes the program's parent, so it goes
//! from one to the other.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What there is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// A folder; those above others need no entry of their own.
    Folder,
    /// A file: how it begins, how long it is, and its mode.
    File { start: Vec<u8>, bytes: u64, mode: u32 },
    /// A symbolic link.
    Link(PathBuf),
    /// What can be opened as a file of VFIO's, once that is caught.
    Node(Node),
    /// A socket at which the supervisor listens.
    Socket,
}

/// A node, by the numbers of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Node {
    Container,
    Group(u32),
    Iommu,
    Device(u32),
}

impl From<Node> for uvfio_uapi::Node {
    fn from(node: Node) -> Self {
        match node {
            Node::Container => Self::Container,
            Node::Group(number) => Self::Group(number),
            Node::Iommu => Self::Iommu,
            Node::Device(number) => Self::Device(number),
        }
    }
}

/// Part of a file system.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tree {
    /// Folders of which nothing is left as it is on this machine; what stands beside them is.
    pub(crate) roots: Vec<PathBuf>,
    /// What stands in them, by absolute paths; what is above another comes first.
    pub(crate) entries: Vec<(PathBuf, What)>,
}

impl Tree {
    /// A folder whose content on this machine is hidden.
    pub(crate) fn root(&mut self, path: impl AsRef<Path>) {
        self.roots.push(path.as_ref().to_owned());
    }

    pub(crate) fn folder(&mut self, path: impl AsRef<Path>) {
        self.add(path, What::Folder);
    }

    pub(crate) fn node(&mut self, path: impl AsRef<Path>, node: Node) {
        self.add(path, What::Node(node));
    }

    pub(crate) fn socket(&mut self, path: impl AsRef<Path>) {
        self.add(path, What::Socket);
    }

    /// A file that all may read.
    pub(crate) fn text(&mut self, path: impl AsRef<Path>, text: impl Into<String>) {
        let start = text.into().into_bytes();
        let bytes = start.len() as u64;
        self.file(path, start, bytes, 0o444);
    }

    pub(crate) fn file(&mut self, path: impl AsRef<Path>, start: Vec<u8>, bytes: u64, mode: u32) {
        self.add(path, What::File { start, bytes, mode });
    }

    /// A link to another absolute path, made relative as the kernel's links are: they lead nowhere else where the whole
    /// is mounted in another place.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, to: impl AsRef<Path>) {
        let (path, to) = (path.as_ref(), to.as_ref());
        let folder: Vec<_> = path.parent().into_iter().flat_map(Path::components).collect();
        let target: Vec<_> = to.components().collect();
        let common = folder.iter().zip(&target).take_while(|(a, b)| a == b).count();
        let up = std::iter::repeat_n(Path::new(".."), folder.len() - common);
        let down = target.iter().skip(common).map(AsRef::<Path>::as_ref);
        self.add(path, What::Link(up.chain(down).collect()));
    }

    fn add(&mut self, path: impl AsRef<Path>, what: What) {
        self.entries.push((path.as_ref().to_owned(), what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_from_its_folder_to_its_target() {
        let mut tree = Tree::default();
        tree.link("/sys/bus/pci/devices/a", "/sys/devices/pci0000:01/a");
        tree.link("/sys/a/b", "/sys/a/c");
        let targets: Vec<_> = tree.entries.iter().map(|(_, what)| what.clone()).collect();
        let link = |to: &str| What::Link(to.into());
        assert_eq!(targets, [link("../../../devices/pci0000:01/a"), link("c")]);
    }
}
