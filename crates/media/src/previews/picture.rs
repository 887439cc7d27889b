//! The copy of an image: of a type that its bytes show, from a short list, within bounds of bytes and pixels.

use std::io::BufReader;

use serde_json::{Map, Value as Json};

use super::fetch::unreachable;
use super::web::Body;
use crate::incoming::Received;
use crate::thumbnail::{self, Header};
use crate::{Error, Label, Media, Mxc, blocking};

/// Most bytes of an image.
const IMAGE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// An image whose file is there and that no row names yet.
pub(super) struct Picture {
    pub(super) received: Received,
    content_type: &'static str,
    size: (u32, u32),
}

impl Picture {
    /// Receives an image and looks at its header.
    pub(super) async fn receive(media: &Media, mut body: Box<dyn Body>) -> Result<Self, Error> {
        let mut incoming = media.incoming(IMAGE_BYTES_MAX.min(media.upload_bytes_max()));
        while let Some(chunk) = body.next().await.map_err(unreachable)? {
            incoming.push(chunk).await?;
        }
        let (name, directory) = (incoming.name().clone(), media.inner.directory.clone());
        let received = incoming.finish().await?;
        let pixels_max = media.inner.options.pixels_max;
        let header = blocking::run(&media.inner.blocking, move || {
            let file = directory.read(&name)?;
            thumbnail::header(BufReader::new(&file), pixels_max)
        });
        let header: Header = header.await.map_err(|_| Error::NotThumbnailable)??;
        let content_type = header.content_type().ok_or(Error::NotThumbnailable)?;
        Ok(Self { received, content_type, size: header.seen_size() })
    }

    /// What is stored with it.
    pub(super) fn label(&self) -> Label {
        Label { content_type: Some(self.content_type.to_owned()), file_name: None }
    }

    /// What clients are told of it.
    pub(super) fn describe(&self, mxc: &Mxc, properties: &mut Map<String, Json>) {
        let (width, height) = self.size;
        properties.insert("og:image".to_owned(), mxc.to_string().into());
        properties.insert("og:image:type".to_owned(), self.content_type.into());
        properties.insert("og:image:width".to_owned(), width.into());
        properties.insert("og:image:height".to_owned(), height.into());
        properties.insert("matrix:image:size".to_owned(), self.received.size.into());
    }
}

/// Whether an answer of this type may hold an image that is copied. What its bytes show decides in the end.
pub(super) fn picture_type(declared: &str) -> Option<()> {
    let image = declared.starts_with("image/") && declared != "image/svg+xml";
    (image || matches!(declared, "application/octet-stream" | "binary/octet-stream")).then_some(())
}
