//! Writes archives of the `newc` form of cpio, which Linux unpacks as its initial RAM file system
//! (kernel documentation, "initramfs buffer format"). Several archives may follow one another.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive under way. Parent directories must be added before what lies in them.
pub(super) struct Archive<W: Write> {
    to: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, entries: 0 }
    }

    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    /// A file; `mode` is its permission bits.
    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | mode, content)
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, target.as_bytes())
    }

    /// Writes the trailer; without it the kernel takes the archive for cut off.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} exceeds 4 GiB"));
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        self.entries += 1;
        // inode, mode, uid, gid, links, time, size, device (2), device number (2), name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        write!(self.to, "070701")?;
        for field in fields {
            write!(self.to, "{field:08X}")?;
        }
        self.to.write_all(name.as_bytes())?;
        self.to.write_all(&[0])?;
        self.pad(110 + name.len() + 1)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    /// Name and content both end on a multiple of four bytes.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_name_and_content_lie_on_multiples_of_four() {
        let mut archive = Archive::new(Vec::new());
        archive.file("ab", 0o644, b"hello").unwrap();
        let bytes = archive.to;
        let header = std::str::from_utf8(&bytes[..110]).unwrap();
        assert_eq!(&header[..6], "070701");
        assert_eq!(
            &header[14..22],
            "000081A4",
            "mode of a regular file, 0644, in {header}"
        );
        assert_eq!(&header[54..62], "00000005", "size in {header}");
        assert_eq!(&header[94..102], "00000003", "length of the name in {header}");
        assert_eq!(&bytes[110..116], b"ab\0\0\0\0", "name, closed and padded to 116");
        assert_eq!(&bytes[116..], b"hello\0\0\0");
    }

    #[test]
    fn an_archive_ends_with_the_trailer() {
        let bytes = Archive::new(Vec::new()).finish().unwrap();
        assert_eq!(&bytes[110..121], b"TRAILER!!!\0");
        assert_eq!(bytes.len() % 4, 0);
    }
}
