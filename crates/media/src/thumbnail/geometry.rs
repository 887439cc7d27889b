//! Sizes of thumbnails (client-server API, "Thumbnails"): never larger than the original, never smaller than asked.

/// How an image is fitted to the size that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Cut to the aspect ratio that was asked for.
    Crop,
    /// Made smaller as a whole.
    Scale,
}

impl Method {
    /// From the query parameter's value.
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "crop" => Some(Self::Crop),
            "scale" => Some(Self::Scale),
            _ => None,
        }
    }

    /// The query parameter's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Scale => "scale",
        }
    }
}

/// The thumbnail that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Least width, in pixels.
    pub width: u32,
    /// Least height, in pixels.
    pub height: u32,
    /// How to fit.
    pub method: Method,
    /// Whether an animated thumbnail is welcome where the original is animated.
    pub animated: bool,
}

/// The size of the thumbnail to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Whether the original is cut to this aspect ratio first.
    pub(crate) crop: bool,
}

impl Target {
    /// The same, lying on its side.
    pub(crate) fn turned(self) -> Self {
        Self { width: self.height, height: self.width, crop: self.crop }
    }
}

/// What to make of an image of this (width, height). `None`: nothing can be taken away, the original it is.
pub(crate) fn target((width, height): (u32, u32), asked: &Asked) -> Option<Target> {
    if asked.width > width || asked.height > height || (asked.width, asked.height) == (width, height) {
        return None;
    }
    match asked.method {
        Method::Crop => Some(Target { width: asked.width, height: asked.height, crop: true }),
        Method::Scale => {
            let (width, height) = cover((width, height), (asked.width, asked.height));
            Some(Target { width, height, crop: false })
        }
    }
    .filter(|target| (target.width, target.height) != (width, height))
}

/// The smallest size of the image's aspect ratio that covers the size that was asked for.
fn cover((width, height): (u32, u32), (asked_width, asked_height): (u32, u32)) -> (u32, u32) {
    // Whichever direction needs the larger share of the original decides; the other is rounded up.
    let wide = u64::from(asked_width) * u64::from(height);
    let high = u64::from(asked_height) * u64::from(width);
    let share = |part: u64, whole: u32| u32::try_from(part.div_ceil(u64::from(whole))).unwrap_or(u32::MAX);
    if wide >= high { (asked_width, share(wide, width)) } else { (share(high, height), asked_height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` as (width, height), or `None` for the original.
    #[track_caller]
    fn check(method: Method, size: (u32, u32), asked: (u32, u32), expected: Option<(u32, u32)>) {
        let asked = Asked { width: asked.0, height: asked.1, method, animated: false };
        let target = target(size, &asked);
        assert_eq!(target.map(|target| (target.width, target.height)), expected, "{method:?} {size:?} {asked:?}");
    }

    #[test]
    fn cm8_scale_covers_what_was_asked() {
        let scale = |size, asked, expected| check(Method::Scale, size, asked, expected);
        scale((640, 480), (320, 240), Some((320, 240)));
        scale((640, 480), (32, 32), Some((43, 32)));
        scale((480, 640), (32, 32), Some((32, 43)));
        scale((1000, 10), (100, 10), None);
        scale((1000, 10), (100, 5), Some((500, 5)));
        scale((3, 2), (1, 1), Some((2, 1)));
        scale((4_000_000_000, 4), (1, 1), Some((1_000_000_000, 1)));
    }

    #[test]
    fn cm8_crop_has_the_size_that_was_asked() {
        let crop = |size, asked, expected| check(Method::Crop, size, asked, expected);
        crop((640, 480), (96, 96), Some((96, 96)));
        crop((640, 480), (640, 10), Some((640, 10)));
        crop((640, 480), (1, 480), Some((1, 480)));
    }

    #[test]
    fn cm8_the_original_where_it_is_smaller() {
        for method in [Method::Crop, Method::Scale] {
            check(method, (64, 64), (64, 64), None);
            check(method, (64, 64), (96, 96), None);
            check(method, (64, 64), (65, 1), None);
            check(method, (64, 64), (1, 65), None);
            check(method, (1, 1), (u32::MAX, u32::MAX), None);
        }
    }

    #[test]
    fn cm8_never_upscaled_and_never_smaller_than_asked() {
        let sizes = [1, 2, 3, 7, 31, 32, 33, 100, 639, 640, 641];
        for width in sizes {
            for height in sizes {
                for (asked_width, asked_height) in [(1, 1), (32, 32), (96, 33), (33, 96), (640, 1), (5, 640)] {
                    for method in [Method::Crop, Method::Scale] {
                        let asked = Asked { width: asked_width, height: asked_height, method, animated: false };
                        let Some(target) = target((width, height), &asked) else { continue };
                        assert!(target.width <= width && target.height <= height, "upscaled: {asked:?} {target:?}");
                        assert!(target.width >= asked_width && target.height >= asked_height, "{asked:?} {target:?}");
                    }
                }
            }
        }
    }
}
