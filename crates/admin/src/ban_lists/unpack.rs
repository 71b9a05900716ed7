//! A list that comes in chunks, perhaps packed: unpacked, cut into entries and checked as it comes.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use tidegate_author::ban_list::{BanListReader, ListError, ListFormat};
use tokio::sync::mpsc;

use super::check::{CheckedList, MAX_BANS};

/// Bytes of a list, at most, packed and unpacked.
pub const MAX_LIST: usize = 256 << 20;

/// Why a list is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ListFault {
    /// It has too many bytes.
    #[error("it has over {MAX_LIST} bytes")]
    TooLarge,
    /// It has too many entries.
    #[error("it has over {MAX_BANS} different blocks")]
    TooMany,
    /// It is not packed as it is said to be.
    #[error("it is no whole gzip file, as it says")]
    NotGzip,
    /// It is none.
    #[error(transparent)]
    NoList(ListError),
}

/// Reads all chunks. Not for the async threads.
pub fn read_chunks(
    mut chunks: mpsc::Receiver<Bytes>,
    is_packed: bool,
    mut sink: ListSink,
) -> Result<(ListFormat, CheckedList), ListFault> {
    if !is_packed {
        while let Some(chunk) = chunks.blocking_recv() {
            sink.push(&chunk)?;
        }
        return sink.finish();
    }
    let mut packed = MultiGzDecoder::new(sink);
    while let Some(chunk) = chunks.blocking_recv() {
        if packed.write_all(&chunk).is_err() {
            return Err(packed.get_mut().refused.take().unwrap_or(ListFault::NotGzip));
        }
    }
    if packed.try_finish().is_err() {
        return Err(packed.get_mut().refused.take().unwrap_or(ListFault::NotGzip));
    }
    match packed.finish() {
        Ok(sink) => sink.finish(),
        Err(_) => Err(ListFault::NotGzip),
    }
}

/// Takes the unpacked list.
pub struct ListSink {
    reader: BanListReader,
    list: CheckedList,
    /// Bytes so far, and at most.
    length: usize,
    max: usize,
    /// Why nothing more is taken.
    refused: Option<ListFault>,
}

impl ListSink {
    /// For `list`, of at most `max` bytes.
    pub fn new(reader: BanListReader, list: CheckedList, max: usize) -> Self {
        Self { reader, list, length: 0, max, refused: None }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), ListFault> {
        self.length = self.length.saturating_add(bytes.len());
        if self.length > self.max {
            return Err(ListFault::TooLarge);
        }
        let list = &mut self.list;
        self.reader.push(bytes, &mut |item| list.take(item)).map_err(ListFault::NoList)?;
        if self.list.is_too_large() { in_order(&mut self.list) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<(ListFormat, CheckedList), ListFault> {
        let list = &mut self.list;
        let format = self.reader.finish(&mut |item| list.take(item)).map_err(ListFault::NoList)?;
        in_order(&mut self.list)?;
        Ok((format, self.list))
    }
}

/// Brings the bans into their order, each once.
fn in_order(list: &mut CheckedList) -> Result<(), ListFault> {
    list.sort();
    if list.bans.len() + list.simulated.as_ref().map_or(0, Vec::len) <= MAX_BANS {
        return Ok(());
    }
    Err(ListFault::TooMany)
}

impl Write for ListSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(fault) => {
                self.refused = Some(fault);
                Err(io::Error::other("refused"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::check::ImportRules;
    use super::*;

    fn packed(list: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(list).unwrap();
        packed.finish().unwrap()
    }

    async fn read_packed(body: Vec<u8>, max: usize) -> Result<usize, ListFault> {
        let (chunks, from) = mpsc::channel(1_000);
        for chunk in body.chunks(100) {
            chunks.send(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        drop(chunks);
        let sink = ListSink::new(BanListReader::new(None, None), CheckedList::new(ImportRules::none()), max);
        let read = tokio::task::spawn_blocking(move || read_chunks(from, true, sink)).await.unwrap();
        read.map(|(_, list)| list.bans.len())
    }

    #[tokio::test]
    async fn a_packed_list_is_unpacked_as_far_as_it_may_be() {
        let list = packed(b"192.0.2.1\n192.0.2.2\n");
        assert_eq!(read_packed(list.clone(), 1_000).await.unwrap(), 2);
        assert_eq!(
            read_packed([list.clone(), list.clone()].concat(), 1_000).await.unwrap(),
            2,
            "two members"
        );
        for broken in [&list[..list.len() - 5], &b"192.0.2.1\n"[..], &[]] {
            let refused = read_packed(broken.to_vec(), 1_000).await.unwrap_err();
            assert!(matches!(refused, ListFault::NotGzip), "{broken:?}: {refused:?}");
        }
        // A bomb: two megabytes in two thousand bytes.
        let bomb = packed(&vec![b'1'; 2 << 20]);
        assert!(bomb.len() < 4_000);
        assert!(matches!(read_packed(bomb, 1 << 20).await, Err(ListFault::TooLarge)));
        let html = packed(b"<html>");
        assert!(matches!(read_packed(html, 1_000).await, Err(ListFault::NoList(_))));
    }
}
