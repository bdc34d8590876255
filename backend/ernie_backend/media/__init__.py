"""``media``: files of images and videos to the patches that an encoder takes, exact, safe and bounded."""
