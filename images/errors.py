"""What the reading of images and archives can raise."""


class ImagesError(ValueError):
    """Base of every error of this package."""


class ImageDecodeError(ImagesError):
    """The bytes are not an image that is accepted; the message says why."""


class ImageTooLargeError(ImageDecodeError):
    """The image has more bytes or pixels than is allowed.

    Attributes:
        field: What is too large: "bytes", "pixels" or "side".
        limit: How much of it is allowed.
    """

    def __init__(self, message: str, *, field: str, limit: int) -> None:
        super().__init__(message)
        self.field = field
        self.limit = limit


class ArchiveError(ImagesError):
    """The archive of labelled images is not acceptable; the message names the entry."""


class ArchiveFormatError(ArchiveError):
    """The file is not an archive of a kind that can be read."""


class InspectionStoppedError(ImagesError):
    """The archive was not read to its end, because the caller no longer wants to know."""
