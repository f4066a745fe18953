"""Images and videos from wherever they are to RGB pixels."""
