"""From the URLs of a request's images and videos to their bytes, within the rules of ``MediaRules``."""
