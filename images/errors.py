"""What the reading of images and archives can raise."""


class ImagesError(ValueError):
    """Base of every error of this package."""


class ImageDecodeError(ImagesError):
    """The bytes are not an image that is accepted; the message says why."""


class ArchiveError(ImagesError):
    """The archive of labelled images is not acceptable; the message names the entry."""
