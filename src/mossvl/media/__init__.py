"""Images and videos: fetched, opened, decoded to RGB pixels."""
