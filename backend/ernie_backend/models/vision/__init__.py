"""The vision towers: a transformer over patches, and what brings its results to the decoder's width."""
